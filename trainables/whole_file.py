"""A file that is written whole or not at all, whatever ends the process or the disk."""

import contextlib
import hashlib
import os
from pathlib import Path

DIGEST_BYTES = hashlib.sha256().digest_size


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts, one behind the other, to ``path`` in one step. OSError where the disk does not take them: what
    was there before is then still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """As ``write_whole``, with the content's SHA-256 behind it."""
    write_whole(path, content, hashlib.sha256(content).digest())


def read_sealed(path: Path) -> memoryview | None:
    """What ``write_sealed`` wrote; None where it is not that any more. ``FileNotFoundError`` where nothing is."""
    stored = memoryview(path.read_bytes())
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == bytes(digest) else None

"""Files of a teacher's table: one Arrow column of rows, written whole or not at all within a bounded folder, and mapped
into memory as a plain array when it is read."""

import contextlib
import os
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock

from trainables.arrow_file import map_batch, write_batch

UNUSED_SECONDS = 3600  # after which the files of another table may make room
SPARE_BYTES = 2**30  # of the disk that tables never take


class DamagedTable(ValueError):
    """A file of a table is no Arrow file, or does not hold what it says."""


def reserve(path: Path, wanted: int, limit: int) -> Path | None:
    """A draft of ``wanted`` bytes for the file at ``path``, in TABLES/KEY; None where TABLES would come to hold more
    than ``limit`` bytes, or the disk has no room. Tables that nobody has read for an hour go first.

    The caller holds the file's lock, so a draft that is already there is that of a killed process.
    """
    draft = path.with_suffix(".draft")
    try:
        with FileLock(path.parent.parent / ".lock"):
            draft.unlink(missing_ok=True)
            _make_room(path.parent, wanted, limit)
            if _held(path.parent.parent) + wanted > limit or shutil.disk_usage(path.parent).free < wanted + SPARE_BYTES:
                return None
            with draft.open("wb") as file:
                file.truncate(wanted)
    except OSError:
        return None
    return draft


def write_rows(draft: Path, path: Path, column: str, rows: np.ndarray) -> bool:
    """Write ``rows`` [N, D], float16 or float32, to ``path`` in one step; False where the disk does not take them."""
    flat = pa.array(rows.reshape(-1))
    table = pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])], [column])
    table = table.replace_schema_metadata({"crc32": str(zlib.crc32(np.ascontiguousarray(rows).data))})
    try:
        write_batch(draft, path, table)
    except OSError:
        draft.unlink(missing_ok=True)
        return False
    return True


def read_rows(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The rows in ``path``, mapped, not copied, read-only. ``FileNotFoundError``, or ``DamagedTable`` in one line."""
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        batch, metadata = map_batch(path)
        values = batch.column(0).values.to_numpy(zero_copy_only=True)
        if values.dtype != dtype or values.size != shape[0] * shape[1]:
            raise ValueError(f"it holds {values.size} numbers of {values.dtype}, not {shape} of {dtype}")
        if str(zlib.crc32(values.data)) != metadata.get("crc32"):
            raise ValueError("its checksum is wrong")
    except (pa.ArrowException, OSError, AttributeError, ValueError, IndexError) as error:
        raise DamagedTable(f"{path} is damaged: {' '.join(str(error).split())}") from error
    os.utime(path.parent)  # somebody uses this table
    return np.asarray(values.reshape(shape))


def _make_room(folder: Path, wanted: int, limit: int) -> None:
    """Delete other tables that are not in use, the longest unused first, until the folder's next file fits."""
    others = [one for one in folder.parent.iterdir() if one.is_dir() and one != folder]
    for table in sorted(others, key=lambda one: one.stat().st_mtime):
        unused = time.time() - table.stat().st_mtime > UNUSED_SECONDS
        if unused and _held(folder.parent) + wanted > limit:
            shutil.rmtree(table, ignore_errors=True)


def _held(tables: Path) -> int:
    """Drafts first: one that becomes a file meanwhile is counted twice, not left out."""
    held = 0
    for pattern in ("*/*.draft", "*/*.arrow"):
        for file in tables.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                held += file.stat().st_size
    return held

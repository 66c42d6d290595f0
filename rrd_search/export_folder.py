"""The folder that an export goes to: filled beside its place, then put there at once, never over anything else."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

PROVENANCE = "provenance.yaml"  # names the export's other files; it tells an export from any other folder
TEACHER = "teacher.safetensors"
NETWORKS = (".safetensors", ".pt2")


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A new folder to fill, which is ``output`` once the block has ended, and gone where the block raised.

    ValueError where ``output`` is a file, holds anything but an earlier export, or cannot be written.
    """
    output = output.resolve()
    _check_replaceable(output)
    draft, old = (output.with_name(f".{output.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    try:
        draft.mkdir(parents=True)
        yield draft
        _check_replaceable(output)  # the block took a while
        if output.exists():
            os.rename(output, old)
        os.rename(draft, output)
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error}") from error
    finally:
        if old.exists() and not output.exists():
            os.rename(old, output)
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_provenance(folder: Path, facts: dict[str, object]) -> None:
    """Last of all: it holds the SHA-256 of each of the folder's files."""
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / PROVENANCE).write_text(yaml.safe_dump({**facts, "files": sums}, sort_keys=False))


def check_networks(folder: Path) -> None:
    """ValueError where a network of an exported folder is not as it was written. Its config may have been edited."""
    provenance = folder / PROVENANCE
    try:
        sums = dict(yaml.safe_load(provenance.read_text())["files"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{provenance} is missing or damaged; export once more") from error
    files = {*folder.iterdir(), *(folder / name for name in sums)}
    for file in sorted(file for file in files if file.suffix in NETWORKS):
        if not file.is_file() or _sha256(file) != sums.get(file.name):
            raise ValueError(f"{file} is missing or damaged: its SHA-256 is not that of {PROVENANCE}; export once more")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _check_replaceable(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output} is a file; an export goes into a folder")
    held = sorted(path.name for path in output.iterdir())
    foreign = [name for name in held if name not in _exported_names(output)]
    if foreign:
        raise ValueError(f"{output} holds {foreign[0]}, which no export wrote; choose another folder or empty this one")


def _exported_names(folder: Path) -> set[str]:
    """Those of an earlier export."""
    try:
        facts = yaml.safe_load((folder / PROVENANCE).read_text())
        return {PROVENANCE, *facts["files"]}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError):
        return set()

"""A copy of an SQLite file that another process may be writing: for those who only read, and may not disturb it.

Opening the file itself, even to read, makes or changes the files beside it and may wait for the writer. A copy of it
and of its write-ahead log holds the same, as long as the log was not begun anew while they were copied.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEADER_BYTES = 32  # of a write-ahead log; its salts change when the log is begun anew
TRIES = 20  # a log is begun anew after a thousand pages, which a search takes minutes to write


@contextmanager
def copied(database: Path) -> Iterator[Path]:
    """A copy in a folder of its own, which goes afterwards. ValueError where it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="rrd-study-") as folder:
        copy = Path(folder) / database.name
        try:
            for _ in range(TRIES):
                before = _state(database)
                _copy(database, copy)
                _copy(_log_of(database), _log_of(copy))
                if _state(database) == before:
                    break
            else:
                raise ValueError(f"{database} changes all the time; try again")
        except OSError as error:
            raise ValueError(f"{database} cannot be read: {error.strerror or error}") from error
        yield copy


def _copy(source: Path, target: Path) -> None:
    """Nothing where there is nothing."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)


def _state(database: Path) -> tuple[int, bytes | int]:
    """Which file it is (a snapshot is replaced as a whole), and which log goes with it; without one, how old it is."""
    found = os.stat(database)
    try:
        with open(_log_of(database), "rb") as log:
            header = log.read(HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    return found.st_ino, header or found.st_mtime_ns


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")

"""The snapshot of a search's study: a copy with a checksum, which the study is compared with when it is opened, and
which takes its place where it is lost or damaged.

A trial that was told never changes: what the snapshot knows of it, the study must know too.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from rrd_search.study_storage import StudyStorage
from trainables.mirror import Mirror
from trainables.whole_file import read_sealed, write_sealed, write_whole

SNAPSHOT = "study.snapshot"  # in the folder of a search
SHARE = 0.01  # of the driver's time goes into snapshots, at most
log = logging.getLogger(__name__)
RUNNING = ("RUNNING", "WAITING")  # states of trials that may still change
# What SQLite says of a file that it cannot use now, whatever is in it: permissions, locks, memory, the disk.
NOT_NOW = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


class Snapshot:
    """Of an open study, in ``file`` and its mirror. Where there is one, after every trial that is told, whatever it
    costs."""

    def __init__(self, storage: StudyStorage, file: Path, mirror: Mirror) -> None:
        self._storage, self._file, self._mirror = storage, file, mirror
        self._taken, self._cost = 0.0, 0.0
        self._failed = False

    def told(self) -> None:
        """A trial was told: take one, if it is time."""
        if self._failed or self._mirror.exists or (time.monotonic() - self._taken) * SHARE >= self._cost:
            self.take()

    def take(self) -> None:
        """Where disk or store do not take it, the last one is still there, and the next trial tries again."""
        started = time.monotonic()
        try:
            write_sealed(self._file, self._storage.content())
            self._mirror.push(self._file)
        except OSError as error:
            if not self._failed:
                log.warning("no snapshot of the study: %s; the next trial tries again", error)
            self._failed = True
            return
        self._failed = False
        self._taken = time.monotonic()
        self._cost = self._taken - started


def read_snapshot(file: Path) -> bytes | None:
    """The study's database in the snapshot; None where there is none, or it is damaged."""
    if not file.is_file():
        return None
    content = read_sealed(file)
    return None if content is None else bytes(content)


def repair(database: Path, snapshot: Path, say: Callable[[str], None]) -> None:
    """Before the study is opened: put the snapshot in place of a database that is lost or damaged, and say so.

    ValueError where there is no whole snapshot to go back to. OSError where the database cannot be read now, as on a
    full disk; it is then left alone.
    """
    content = read_snapshot(snapshot)
    if not database.is_file():
        if content is not None:
            for rest in database.parent.glob(f"{database.name}-*"):  # the log of a database that is not there any more
                rest.unlink()
            write_whole(database, content)
            say(f"{database} is not there: the search goes on from {snapshot}")
        elif snapshot.is_file():
            told = "nothing is left to go on from; another --name starts another search"
            raise ValueError(f"{database} is not there, and {snapshot} is damaged: {told}")
        return
    damage = _damage(database, content)
    if damage is None:
        return
    if content is None:
        raise ValueError(f"{database} is damaged ({damage}), and {snapshot} is missing or damaged too")
    restored = database.with_name(f"restored-{database.name}")
    write_whole(restored, content)  # before anything is moved: the disk may not take it
    for file in sorted(database.parent.glob(f"{database.name}*"), reverse=True):  # the database itself last
        file.rename(file.with_name(f"damaged-{int(time.time())}-{file.name}"))
    restored.rename(database)
    say(f"{database} was damaged ({damage}): the search goes on from {snapshot}; trials told since then are told again")


def _damage(database: Path, snapshot: bytes | None) -> str | None:
    """What is wrong with the database, by SQLite's own check and by what the snapshot knows; None if nothing is."""
    try:
        with contextlib.closing(sqlite3.connect(database)) as live:
            (said,) = live.execute("pragma quick_check(1)").fetchone()
            if said != "ok":
                return str(said).splitlines()[0]
            if snapshot is None:
                return None
            with contextlib.closing(sqlite3.connect(":memory:")) as known:
                known.deserialize(snapshot)
                return _difference(live, known)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in NOT_NOW:  # the low byte is the kind
            raise OSError(f"{database} cannot be read now: {error}") from error
        return str(error)


def _difference(live: sqlite3.Connection, known: sqlite3.Connection) -> str | None:
    marks = ", ".join("?" * len(RUNNING))
    told = f"select trial_id from trials where state not in ({marks})"
    tables = [name for (name,) in known.execute("select name from sqlite_master where type = 'table'")]
    for table in tables:
        columns = [row[1] for row in known.execute(f"pragma table_info({table})")]
        if "trial_id" not in columns:
            continue
        rows = f"select {', '.join(columns)} from {table} where trial_id in "
        expected = set(known.execute(f"{rows} ({told})", RUNNING))
        ids = [trial_id for (trial_id,) in known.execute(told, RUNNING)]
        found = {row for one in ids for row in live.execute(f"{rows} (?)", (one,))}
        if expected != found:
            return f"its {table.replace('_', ' ')} are not those that were recorded"
    return None

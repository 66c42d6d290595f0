"""The SQLite file that a search's Optuna studies are kept in: opened, made fast, and copied while it is in use."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, cast

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from rrd_search.study_memory import Remembering

WRITE_AHEAD = slice(18, 20)  # of an SQLite file: whether its latest writes are in another one
NO_ROOM = ("is full", "disk I/O error")  # as SQLite says it of a disk, and of a quota
ROOM_SECONDS = 1.0  # between two tries where the disk is full
log = logging.getLogger(__name__)


class StudyStorage:
    """Optuna's storage at a URL, ``sqlite:///PATH``. ValueError where the file cannot be made or is none of Optuna's.

    Whatever was written survives the death of the process at any moment.
    """

    def __init__(self, url: str) -> None:
        try:
            self._database = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            raise ValueError(f"the study at {url} cannot be opened: {' '.join(str(error).split())}") from error
        engine = self._database.engine
        if engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(engine, "connect", _write_ahead)
            engine.dispose()  # connections from before
        self.optuna = cast(BaseStorage, _Patient(Remembering(self._database), url))

    def content(self) -> bytes:
        """A consistent copy, as the content of one file. (The SQLite file by itself lacks the latest writes.)"""
        source = self._database.engine.raw_connection()
        try:
            assert source.driver_connection is not None, "an open connection"
            content = bytearray(source.driver_connection.serialize())
        finally:
            source.close()
        content[WRITE_AHEAD] = b"\x01\x01"  # what comes with it is not in a file of its own
        return bytes(content)

    def close(self) -> None:
        self.optuna.remove_session()
        self._database.engine.dispose()


class _Patient:
    """A storage whose calls wait while the disk takes nothing. A call that failed for that changed nothing."""

    def __init__(self, storage: BaseStorage, url: str) -> None:
        self._storage, self._url = storage, url

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._storage, name)
        return functools.partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        said = False
        while True:
            try:
                return method(*arguments, **named)
            except (sqlalchemy.exc.OperationalError, StorageInternalError) as error:
                if not any(words in f"{error} {error.__cause__}" for words in NO_ROOM):
                    raise
            if not said:
                log.warning("the disk of %s is full, or fails: the search waits until it takes writes", self._url)
                said = True
            time.sleep(ROOM_SECONDS)


def _write_ahead(connection: Any, _: Any) -> None:
    """A third of the time per trial of SQLite's default, and as safe, but for the last writes in a power cut."""
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=normal")

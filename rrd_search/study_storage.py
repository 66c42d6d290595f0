"""The SQLite file that a search's Optuna studies are kept in: opened, made fast, and copied while it is in use."""

from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage, get_storage

WRITE_AHEAD = slice(18, 20)  # of an SQLite file: whether its latest writes are in another one


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
        self.optuna: BaseStorage = get_storage(self._database)

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


def _write_ahead(connection: Any, _: Any) -> None:
    """A third of the time per trial of SQLite's default, and as safe, but for the last writes in a power cut."""
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=normal")

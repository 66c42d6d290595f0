"""A small real search and an export of it, made once for all tests here. They are copied where they are changed."""

from pathlib import Path

import pytest
from tiny_search import NAME, make_search

from rrd_search.export import export_trial
from rrd_search.study_storage import StudyStorage
from rrd_search.tracking import quiet_client
from trainables.places import Places


@pytest.fixture(scope="session")
def tiny_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage folder with the search called ``tiny``."""
    storage = tmp_path_factory.mktemp("storage")
    make_search(storage).close()
    return storage


@pytest.fixture(scope="session")
def exported(tiny_storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of its best trial."""
    return export_trial(
        NAME, Places(storage=tiny_storage, data_root=tiny_storage), None, tmp_path_factory.mktemp("export") / "best"
    )


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's storage without studies: making its tables takes seconds."""
    made = tmp_path_factory.mktemp("empty") / "empty.db"
    storage = StudyStorage(f"sqlite:///{made}")
    made.with_name("copy.db").write_bytes(storage.content())
    storage.close()
    return made.with_name("copy.db")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's store without runs; making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    quiet_client(f"sqlite:///{path}").search_experiments()
    return path

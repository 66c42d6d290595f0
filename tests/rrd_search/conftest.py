"""A small real search and an export of it, made once for all tests here. They are copied where they are changed."""

from pathlib import Path

import pytest
from tiny_search import NAME, make_search

from rrd_search.export import export_trial
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

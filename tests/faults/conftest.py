"""The fault suite: a short form in every run of the tests, a long one (`make faults`) with RRD_FAULTS=long."""

import os
from pathlib import Path

import pytest
from tally import Tally

TALLY = pytest.StashKey[Tally]()
HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long cases are left out where they were not asked for, and every case has time for a busy machine."""
    own = [item for item in items if HERE in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.timeout(7200 if is_long() else 1800))
    if not is_long():
        left_out = [item for item in own if item.get_closest_marker("long_form")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[TALLY]
    if tally.rows:
        terminalreporter.section("faults")
        for line in tally.table():
            terminalreporter.write_line(line)
        if file := os.environ.get("RRD_FAULTS_TALLY"):
            tally.write(Path(file))


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[TALLY]


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether this is the long form."""
    return is_long()


def is_long() -> bool:
    return os.environ.get("RRD_FAULTS") == "long"

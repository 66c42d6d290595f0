"""Hosts for the tests of clusters, or why there are none; and how long the steps of the tests took."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from machine import CannotHost, NotInstalled, check_machine

STEPS = pytest.StashKey[list[tuple[str, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[STEPS]:
        terminalreporter.section("clusters")
        for step, seconds in config.stash[STEPS]:
            terminalreporter.write_line(f"{seconds:6.1f} s  {step}")


@pytest.fixture
def timed(pytestconfig: pytest.Config) -> Callable[[str], AbstractContextManager[None]]:
    """Names a step of a test, which is then told with its seconds."""

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            pytestconfig.stash[STEPS].append((name, time.monotonic() - started))

    return step


@pytest.fixture
def told(pytestconfig: pytest.Config) -> Callable[[str, float], None]:
    """Takes what happened, and the seconds until then."""
    return lambda what, seconds: pytestconfig.stash[STEPS].append((what, seconds))


@pytest.fixture(scope="session")
def hosting() -> None:
    """Skips where this machine cannot make hosts; in CI, a machine that only lacks programs is not good enough."""
    try:
        check_machine()
    except NotInstalled as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    except CannotHost as error:
        pytest.skip(str(error))

"""Hosts for the tests of clusters, or why there are none."""

import os

import pytest
from hosts import CannotHost, NotInstalled, check_machine


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

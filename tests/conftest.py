"""What all tests share. Its being here puts this folder on the import path, so that tests find `real_formats` and
`waiting`."""

import os
from collections.abc import Iterator

import pytest

# Whatever the machine offers: tests start their own Ray, and keep and record in their own folders.
os.environ["RAY_ADDRESS"] = "local"
for name in ("RRD_STORAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """A Ray of two cores, which the tests of a module share."""
    import ray  # which takes a second

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()

"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def soon(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it holds within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()

"""Keep Optuna's log lines and warnings (experimental samplers, values out of range) off the user's terminal."""

import contextlib
import warnings
from collections.abc import Iterator

import optuna


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Inside, Optuna logs errors only and no warning is shown; outside, everything is as before."""
    with quiet_log(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Inside, Optuna logs errors only. Around many ``quiet_optuna``: to change a level, Python visits all loggers."""
    before = optuna.logging.get_verbosity()
    if before == optuna.logging.ERROR:
        yield
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

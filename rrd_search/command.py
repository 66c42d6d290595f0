"""How every command of the package reads its arguments and says what is wrong: one plain line, exit code 2."""

import argparse
import atexit
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one, and whose help does not tell it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        none = action.default is None or action.default is False or action.default == []
        return action.help if none or "default:" in (action.help or "") else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage; abbreviated flags are not taken."""

    def __init__(self, program: str, description: str) -> None:
        """``program``: what follows ``python`` on the command line."""
        super().__init__(f"python {program}", description=description, formatter_class=_Help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def run_command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run ``main`` with the command line, and end the process.

    Without taking PyTorch, Ray and MLflow apart: that takes seconds, for memory that the system frees by itself.
    """
    code = exit_code(main)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_code(main: Callable[[list[str]], int]) -> int:
    """Of ``main`` with the command line; a ValueError is the user's to mend."""
    quieten()
    try:
        return main(sys.argv[1:])
    except (ValueError, OSError) as error:  # an OSError: a disk that is full, a store that does not answer
        if os.environ.get("RRD_SEARCH_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED


def default_storage() -> str:
    """What --storage is where it is not given; a cluster's nodes have RRD_STORAGE in their environment."""
    return os.environ.get("RRD_STORAGE") or "runs"


def default_tracking_uri() -> str | None:
    """What --mlflow-uri is where it is not given; the variable is MLflow's own."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def quieten() -> None:
    """The libraries' own chatter is not the user's."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|mlflow|optuna|ray)\b")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def whole(least: int) -> Callable[[str], int]:
    """A type for ``add_argument``: a whole number of ``least`` or more."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of {least} or more, got {text!r}")
        return int(text)

    return parse


def amount(least: float, exclusive: bool = False) -> Callable[[str], float]:
    """A type for ``add_argument``: a number of ``least`` or more, or above it."""

    def parse(text: str) -> float:
        rule = f"a number above {least:g}" if exclusive else f"a number of {least:g} or more"
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (value > least if exclusive else value >= least) or value == float("inf"):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")
        return value

    return parse

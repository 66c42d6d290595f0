"""How one benchmark is run from the command line."""

import argparse
from collections.abc import Callable

from benchmarks.report import Row, table
from benchmarks.timing import ROUNDS, one_thread


def main(rows: Callable[[int], list[Row]]) -> None:
    """Print the table of one file's rows."""
    parser = argparse.ArgumentParser(description="Times the project against the plain recipe.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each side (default: {ROUNDS})")
    one_thread()
    print(table(rows(parser.parse_args().rounds)))

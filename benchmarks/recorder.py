"""What tracking costs a search: its share of the driver's time, its slowest call there, and whole searches with MLflow
against searches with a recorder that does nothing.

python -m benchmarks.recorder [--pairs 5] [--trials 12] [--epochs 4]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.small_search import SmallSearch
from benchmarks.trial_overhead import with_teacher
from rrd_search.record import Recorder
from rrd_search.search import SearchRun
from rrd_search.space import load_space
from trainables.trial import Trial

SHARE, P99_SECONDS, RATIO = 0.001, 0.005, 0.05  # at most
CALLS = ("start_trial", "epoch", "end_trial")  # that a driver makes while trials run


class Silent:
    """A recorder that records nothing."""

    def __init__(self, *parts: Any) -> None:
        self.seconds: list[float] = []

    def unsent(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


class Timed:
    """A recorder, and how long each call on the driver's thread took."""

    def __init__(self, *parts: Any) -> None:
        self._recorder = Recorder(*parts)
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._recorder, name)
        if name not in CALLS:
            return method

        def timed(*arguments: Any) -> None:
            began = time.perf_counter()
            method(*arguments)
            self.seconds.append(time.perf_counter() - began)

        return timed


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    spent: dict[bool, list[float]] = {True: [], False: []}
    calls: list[float] = []
    for pair in range(options.pairs):
        for tracked in (True, False) if pair % 2 else (False, True):
            seconds, timed = _search(options, tracked)
            spent[tracked].append(seconds)
            calls += timed
    print("\n".join(_table(options, spent, calls)))


def _search(options: argparse.Namespace, tracked: bool) -> tuple[float, list[float]]:
    """Wall seconds from the first trial's start to the last one's end, and of each call of the recorder."""
    runs: list[_Clocked] = []

    def driver(*parts: Any) -> SearchRun:
        runs.append(_Clocked(*parts))
        return runs[0]

    with tempfile.TemporaryDirectory(prefix="recorder-") as folder:
        search = SmallSearch(
            folder=Path(folder),
            space=with_teacher(load_space("quickstart").with_values({"epochs": options.epochs}), Path(folder)),
            trials=options.trials,
            concurrent=options.concurrent,
            recorder=Timed if tracked else Silent,
        )
        search.run(driver, Trial)
    (run,) = runs
    recorder: Any = run.recorder
    return run.end - run.begin, recorder.seconds


class _Clocked(SearchRun):
    """Notes when the first trial started and the last one ended."""

    begin, end = 0.0, 0.0

    def next(self, tune_id: str) -> Any:
        self.begin = self.begin or time.perf_counter()
        return super().next(tune_id)

    def ended(self, tune_id: str, result: dict[str, Any], error: Any = None) -> None:
        super().ended(tune_id, result, error)
        self.end = time.perf_counter()


def _table(options: argparse.Namespace, spent: dict[bool, list[float]], calls: list[float]) -> list[str]:
    share = sum(calls) / sum(spent[True])
    ratios = [on / off for on, off in zip(spent[True], spent[False], strict=True)]
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return [
        f"{options.pairs} pairs of searches, {options.trials} trials of {options.epochs} epochs on the digits, "
        f"{options.concurrent} at a time, with MLflow in SQLite and without; {os.cpu_count()} cores, load {load}",
        f"  the recorder's share of the driver's time: {100 * share:.4f} % (at most {100 * SHARE:g} %)",
        f"  a call on the driver's thread, p99 of {len(calls)}: "
        f"{1e3 * statistics.quantiles(calls, n=100)[-1]:.2f} ms (at most {1e3 * P99_SECONDS:g} ms), "
        f"slowest {1e3 * max(calls):.2f} ms, median {1e3 * statistics.median(calls):.3f} ms",
        f"  searches with tracking over searches without: median {statistics.median(ratios):.3f} "
        f"(at most {1 + RATIO:g}); {told}",
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--concurrent", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What a one-worker trial costs beside its training, in a warm process: a small real search on the digits.

python -m benchmarks.trial_overhead [--trials 24] [--concurrent 1] [--epochs 2]
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.small_search import SmallSearch
from rrd_search.search import SearchRun
from rrd_search.search_file import teacher_facts
from rrd_search.space import Space, load_space
from trainables import trial as trials
from trainables.places import Places
from trainables.teacher import TeacherFile, make_teacher
from trainables.trial import Trial
from trainables.worker import Worker

TARGET_SECONDS = 0.5


class TimedWorker(Worker):
    """A worker that notes when it did what."""

    times: ClassVar[dict[str, float]] = {}

    def __init__(self, *parts: Any) -> None:
        self.times["setup"] = time.time()
        super().__init__(*parts)

    def epoch(self) -> Any:
        self.times.setdefault("begin", time.time())
        metrics = super().epoch()
        self.times["end"] = time.time()
        return metrics

    def finish(self) -> None:
        super().finish()
        self.times["finished"] = time.time()


class Timed(Trial):
    """A trial that tells what its worker noted."""

    def setup(self, config: dict[str, Any]) -> None:
        self.times = TimedWorker.times
        trials.Worker = TimedWorker  # type: ignore[misc, assignment]  # in this process alone
        super().setup(config)

    def step(self) -> dict[str, Any]:
        self.times.setdefault("step", time.time())
        report = super().step() | {"pid": os.getpid(), "times": dict(self.times)}
        if report["done"]:
            self.times.clear()
        return report


class Listening(SearchRun):
    """A driver that keeps what the trials say of their times."""

    def __init__(self, *parts: Any, told: dict[int, list[dict[str, float]]]) -> None:
        super().__init__(*parts)
        self.told = told

    def ended(self, tune_id: str, result: dict[str, Any], error: Any = None) -> None:
        assert error is None, error
        self.told[result["pid"]].append(result["times"])
        super().ended(tune_id, result, error)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    told: dict[int, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as folder:
        search = SmallSearch(
            folder=Path(folder),
            space=with_teacher(load_space("quickstart").with_values({"epochs": options.epochs}), Path(folder)),
            trials=options.trials,
            concurrent=options.concurrent,
        )
        search.run(lambda *parts: Listening(*parts, told=told), Timed)
    print("\n".join(_table(options, told)))


def with_teacher(space: Space, folder: Path) -> Space:
    """One that was trained for an epoch: what it says does not matter here."""
    space = space.with_values({"teacher.epochs": 1})
    made = list(make_teacher(space.base, Places(storage=folder, data_root=folder), torch.device("cpu")))[-1]
    assert isinstance(made, TeacherFile), "the last thing that is yielded"
    return space.with_values({"teacher.weights": teacher_facts(made)["weights"]})


def _table(options: argparse.Namespace, told: dict[int, list[dict[str, float]]]) -> list[str]:
    """Medians over all trials but the first of each process, which finds it cold."""
    parts: dict[str, list[float]] = defaultdict(list)
    for times in told.values():
        for before, now in itertools.pairwise(times):
            parts["students and results written"].append(before["finished"] - before["end"])
            parts["reported, told, proposed, sent"].append(now["step"] - before["finished"])
            parts["config read"].append(now["setup"] - now["step"])
            parts["student, optimizer and loss made"].append(now["begin"] - now["setup"])
            parts["all, from last to first epoch"].append(now["begin"] - before["end"])
            parts["training"].append(now["end"] - now["begin"])
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    lines = [
        f"{options.trials} trials of {options.epochs} epochs on the digits, {options.concurrent} at a time in "
        f"{len(told)} processes; {os.cpu_count()} cores, load {load}; medians (and 90th percentiles) in seconds"
    ]
    for name, seconds in parts.items():
        lines.append(f"  {name:34} {statistics.median(seconds):6.3f} ({statistics.quantiles(seconds, n=10)[-1]:.3f})")
    return [*lines, f"  target: all at most {TARGET_SECONDS:g}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What the driver costs: many simulated trials on real Ray Tune, with the real study, recorder and display.

python -m benchmarks.orchestration [--trials 1000] [--concurrent 16] [--seconds 5] [--reports 5]
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from benchmarks.simulated import Simulated
from benchmarks.small_search import SmallSearch
from rrd_search.samplers import SAMPLERS
from rrd_search.search import SearchRun
from rrd_search.space import load_space

EARLY, WINDOW = 100, 100  # the first window's middle, and the width of both, in trials


@dataclass
class Clock:
    """Wall and processor seconds of what ran under it."""

    wall: float = 0.0
    cpu: float = 0.0
    asks: list[float] = field(default_factory=list)  # wall seconds of each proposal's sampler

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.thread_time() - cpu


class Clocked(BaseSampler):
    """Another sampler, under a clock."""

    def __init__(self, sampler: BaseSampler, clock: Clock) -> None:
        self._sampler, self._clock = sampler, clock

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        with self._clock.running():
            return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        with self._clock.running():
            return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        with self._clock.running():
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Mark:
    """What was spent when a trial ended. ``own``: wall seconds in this project's code on the driver."""

    at: float
    process_cpu: float
    own_wall: float
    sampler_wall: float
    sampler_cpu: float


class MeasuredRun(SearchRun):
    """A search's driver, under clocks; its trials are told how long to wait and what to say."""

    def __init__(self, *parts: Any, sampler: Clock, epoch_seconds: float) -> None:
        super().__init__(*parts)
        self.sampler, self.own, self.epoch_seconds = sampler, Clock(), epoch_seconds
        self.marks: list[Mark] = []
        self.spans: dict[str, tuple[float, float]] = {}  # trial -> its start there, its end as heard here
        self.pids: dict[int, float] = {}  # process -> the start of its first trial
        self.began = time.time()

    def next(self, tune_id: str) -> Any:
        before = self.sampler.wall
        with self.own.running():
            said = super().next(tune_id)
        if self.sampler.wall > before:
            self.sampler.asks.append(self.sampler.wall - before)
        return said

    def heard(self, tune_id: str, result: dict[str, Any]) -> None:
        with self.own.running():
            super().heard(tune_id, result)

    def ended(self, tune_id: str, result: dict[str, Any], error: Any = None) -> None:
        self.spans[tune_id] = result["started"], time.time()
        self.pids[result["pid"]] = min(result["started"], self.pids.get(result["pid"], math.inf))
        with self.own.running():
            super().ended(tune_id, result, error)
        self.marks.append(Mark(time.time(), time.process_time(), self.own.wall, self.sampler.wall, self.sampler.cpu))

    def _tune_config(self, proposal: Any) -> dict[str, Any]:
        simulated = {"epoch_seconds": self.epoch_seconds, "epochs": proposal.config.epochs}
        return super()._tune_config(proposal) | simulated | {"value": value_of(proposal.config.flat())}


def main() -> None:
    options, sampler = _options(), Clock()
    make = SAMPLERS[options.sampler]
    SAMPLERS[options.sampler] = lambda seed, number: Clocked(make(seed, number), sampler)
    driver = partial(MeasuredRun, sampler=sampler, epoch_seconds=options.seconds / options.reports)
    runs: list[MeasuredRun] = []

    def keep(*parts: Any) -> MeasuredRun:
        runs.append(driver(*parts))
        return runs[0]

    with tempfile.TemporaryDirectory(prefix="orchestration-") as folder:
        search = SmallSearch(
            folder=Path(folder),
            space=load_space("rrd").with_values({"epochs": options.reports}),
            trials=options.trials,
            concurrent=options.concurrent,
            sampler=options.sampler,
        )
        said = search.run(keep, Simulated)
    print("\n".join([*_table(options, runs[0]), f"recorder: {said}"]))


def value_of(flat: dict[str, Any]) -> float:
    """An accuracy that is best at certain temperatures and a certain learning rate."""
    distances = (
        math.log(flat["loss.student_temperature"] / 0.1),
        math.log(flat["loss.teacher_temperature"] / 0.05),
        math.log(flat["optimizer.learning_rate"] / 0.05),
    )
    return 0.7 - sum(distance**2 for distance in distances) / 50


def _table(options: argparse.Namespace, run: MeasuredRun) -> list[str]:
    starts, ends = zip(*run.spans.values(), strict=True)
    total, ideal = max(ends) - min(starts), len(ends) * options.seconds / options.concurrent
    processes = sorted(run.pids.values())
    begun, ramp = processes[0] - run.began, processes[-1] - processes[0]
    early = _window(run.marks, EARLY - WINDOW // 2)
    late = _window(run.marks, len(run.marks) - options.concurrent - WINDOW)
    asks = run.sampler.asks[EARLY - WINDOW // 2 :][:WINDOW], run.sampler.asks[-WINDOW:]
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return [
        f"{len(ends)} simulated trials of {options.seconds:g} s with {options.reports} reports, {options.concurrent} at"
        f" a time, sampler {options.sampler}; {os.cpu_count()} cores, load {load}",
        f"  start-up: first trial {begun:.1f} s after the call, the last of {len(processes)} processes {ramp:.1f} s "
        "later",
        f"  first start to last end {total:.1f} s, ideally {ideal:.1f} s: {total / ideal:.2f}",
        f"  the same since all processes run: {_steady(run, options):.2f} (at most 1.2)",
        f"  from then to the last start, places are busy {_busy(run, options):.1%} of the time",
        f"  a trial's end to the start of the next in its place: median {statistics.median(_gaps(run, options)):.2f} s",
        f"per trial, around trial {EARLY} and around the last but {options.concurrent + WINDOW // 2}:",
        f"  CPU of the driver, sampler apart: {_told(early.cpu, late.cpu)} (at most 1.5)",
        f"  wall time of this project's code there, sampler apart: {_told(early.wall, late.wall)}",
        f"  CPU of the sampler: {_told(early.sampler_cpu, late.sampler_cpu)}",
        f"  wall time of the sampler, medians: {_told(*map(statistics.median, asks))}",
    ]


def _told(early: float, late: float) -> str:
    return f"{early * 1e3:.0f} ms, {late * 1e3:.0f} ms: {late / early:.2f}"


@dataclass(frozen=True)
class Cost:
    """Seconds per trial."""

    cpu: float  # of the driver's process, without the sampler
    wall: float  # in this project's code, without the sampler
    sampler_cpu: float


def _window(marks: list[Mark], start: int) -> Cost:
    first, last = marks[max(0, start)], marks[min(len(marks) - 1, start + WINDOW)]
    count = marks.index(last) - marks.index(first)
    sampler_cpu, sampler_wall = last.sampler_cpu - first.sampler_cpu, last.sampler_wall - first.sampler_wall
    cpu = last.process_cpu - first.process_cpu - sampler_cpu
    return Cost(cpu / count, (last.own_wall - first.own_wall - sampler_wall) / count, sampler_cpu / count)


def _steady(run: MeasuredRun, options: argparse.Namespace) -> float:
    """The time of all places since their processes run, over the time in which trials ran there."""
    begin, end = max(run.pids.values()), max(heard for _, heard in run.spans.values())
    busy = sum(max(0.0, start + options.seconds - max(begin, start)) for start, _ in run.spans.values())
    return (end - begin) * options.concurrent / busy


def _busy(run: MeasuredRun, options: argparse.Namespace) -> float:
    """The share of the time in which trials ran, of all places, while there were trials for all of them."""
    starts = [start for start, _ in run.spans.values()]
    begin, end = max(run.pids.values()), max(starts)
    ran = sum(max(0.0, min(end, start + options.seconds) - max(begin, start)) for start in starts)
    return ran / ((end - begin) * options.concurrent)


def _gaps(run: MeasuredRun, options: argparse.Namespace) -> list[float]:
    """From the end of each trial's work to the start of a next one: ends and starts paired in their order."""
    starts = sorted(start for start, _ in run.spans.values())
    ends = [start + options.seconds for start in starts]
    return [start - end for start, end in zip(starts[len(run.pids) :], ends, strict=False)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="that a trial takes")
    parser.add_argument("--reports", type=int, default=5, help="of a trial, one an epoch")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    return parser.parse_args()


if __name__ == "__main__":
    main()

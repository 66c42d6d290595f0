"""Interleaved timing: contestants take turns on one thread, and what is told is the median of the rounds' ratios: a
machine that is slower for some seconds is so for both sides of a round.

On the CPU the time is the processor's for all threads of this process: on one thread that is the wall clock's, but
for what other processes of the machine take. On a GPU it is the wall clock's, until the GPU has done everything.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from trainables import cpu

ROUNDS = 5
Contestants = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Timings:
    """The seconds of every round, by contestant."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> float:
        """How many times as long ``slower`` takes as ``faster``, by the round; the median."""
        return median_ratio(self.seconds[slower], self.seconds[faster])


def median_ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Of the rounds' ratios."""
    return statistics.median(slow / fast for slow, fast in zip(slower, faster, strict=True))


def interleaved(contestants: Contestants, rounds: int = ROUNDS, warm_up: int = 1) -> Timings:
    """Run each contestant once a round, each round in the opposite order of the last, so that whatever else the
    machine does falls on all of them alike. The first ``warm_up`` rounds do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warm_up + rounds):
        names = list(contestants) if number % 2 == 0 else list(contestants)[::-1]
        for name in names:
            taken = _seconds(contestants[name])
            if number >= warm_up:
                seconds[name].append(taken)
    return Timings(seconds)


class Apart:
    """A contestant in a process of its own, so that nothing that one side sets for its process helps the other.

    ``make(*arguments)``, called there, makes what is timed there; ``prepare`` is called first.
    """

    def __init__(self, prepare: Callable[[], object], make: Callable[..., Callable[[], object]], *arguments: object):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, there = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(there, prepare, make, arguments), daemon=True)
        self._process.start()
        there.close()

    def seconds(self) -> float:
        """Of one turn."""
        self._pipe.send(True)
        return float(self._pipe.recv())

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def interleaved_apart(contestants: Mapping[str, Apart], rounds: int = ROUNDS) -> Timings:
    """As ``interleaved``; the contestants are closed."""
    with ExitStack() as stack:
        for contestant in contestants.values():
            stack.callback(contestant.close)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(1 + rounds):
            for name in list(contestants) if number % 2 == 0 else list(contestants)[::-1]:
                taken = contestants[name].seconds()
                if number:
                    seconds[name].append(taken)
    return Timings(seconds)


def _serve(
    pipe: Connection,
    prepare: Callable[[], object],
    make: Callable[..., Callable[[], object]],
    arguments: tuple[object, ...],
) -> None:
    prepare()
    call = make(*arguments)
    while pipe.recv():
        pipe.send(_seconds(call))


def one_thread() -> None:
    """As trials run on a CPU: one thread each, and as many trials as there are cores."""
    torch.set_num_threads(1)


def settled() -> None:
    """As a trial's process is."""
    cpu.settle(1, torch.device("cpu"))


def _seconds(call: Callable[[], object]) -> float:
    started = _clock()
    call()
    return _clock() - started


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()

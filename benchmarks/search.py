"""Whole searches, each in a process of its own: the plain way against ``python -m rrd_search.tune``.

One table for the same trials run to their end; one for the time until a trial ends with the accuracy that half of the
plain searches reach. python -m benchmarks.search --help shows the sizes.
"""

import argparse
import json
import math
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Row, native_bfloat16, table
from benchmarks.searched import Searched, write_cifar100, write_drawn_teacher, write_trained_teacher
from benchmarks.timing import ROUNDS, median_ratio
from search_spaces import quickstart, rrd
from trainables.worker import ENDED_AT

TRIALS_TARGET = 4.0  # times as many trials an hour
ACCURACY_TARGET = 20.0  # times as soon
OVERHEAD_TARGET = 0.5  # seconds a trial
PATIENCE_SECONDS = 3600.0
SPACE = Path(__file__).with_name("search_space.py")


@dataclass(frozen=True)
class Ended:
    """A trial that ran all its epochs: when it trained, and its last held-out accuracy."""

    started: float  # time.time(), before its first epoch
    ended: float  # after its last
    accuracy: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True)
class Search:
    """A search that was run; ``trials`` in the order in which they ended."""

    started: float
    ended: float
    concurrent: int
    trials: list[Ended]

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def start_up(self) -> float:
        """Until the first trial trains."""
        return min(trial.started for trial in self.trials) - self.started

    @property
    def closing(self) -> float:
        return self.ended - self.trials[-1].ended

    @property
    def training(self) -> float:
        """Of a trial, the median."""
        return statistics.median(trial.seconds for trial in self.trials)

    @property
    def between(self) -> float:
        """From a trial's end to the start of the next one in its place, the median."""
        free: list[float] = []
        gaps = []
        by_start = sorted(self.trials, key=lambda trial: trial.started)
        for number, trial in enumerate(by_start):
            if number >= self.concurrent:
                gaps.append(trial.started - free.pop(0))
            free = sorted([*free, trial.ended])
        return statistics.median(gaps)

    def until(self, accuracy: float) -> float:
        """Seconds to the end of the first trial with at least that accuracy; infinite where there is none."""
        return next((seconds for seconds, best in self.improvements() if best >= accuracy), math.inf)

    def improvements(self) -> list[tuple[float, float]]:
        """Seconds and accuracy of the trials that were the best so far when they ended."""
        found: list[tuple[float, float]] = []
        for trial in self.trials:
            if not found or trial.accuracy > found[-1][1]:
                found.append((trial.ended - self.started, trial.accuracy))
        return found


def plain_search(searched: Searched, folder: Path) -> Search:
    folder.mkdir()
    (folder / "searched.pickle").write_bytes(pickle.dumps(searched))
    command = ["benchmarks.plain_search", str(folder / "searched.pickle"), str(folder)]
    started, ended = _run(command, folder)
    told = [json.loads(file.read_text()) for file in folder.glob("trial-*.json")]
    assert len(told) == searched.trials, f"{len(told)} of the plain side's {searched.trials} trials ended"
    trials = [Ended(trial["started"], trial["ended"], trial["accuracies"][-1]) for trial in told]
    return Search(started, ended, searched.concurrent, _in_order(trials))


def our_search(searched: Searched, folder: Path, *, scheduler: str = "none", precision: str = "float32") -> Search:
    folder.mkdir()
    flags = {
        "data": searched.data,
        "data-root": searched.root,
        "teacher": searched.teacher,
        "teacher-checkpoint": searched.checkpoint,
        "student": searched.student,
        "epochs": searched.epochs,
        "trials": searched.trials,
        "max-concurrent": searched.concurrent,
        "seed": searched.seed,
        "scheduler": scheduler,
        "storage": folder,
        "name": "here",
    }
    flat = searched.config.flat()
    settings = {name: flat[name] for name in ("data.image_size", "data.held_out", "loss.queue_size", "batch_size")}
    command = ["rrd_search.tune", str(SPACE), *(f"--{name}={value}" for name, value in flags.items())]
    command += [f"--set={name}={value}" for name, value in (settings | {"precision": precision}).items()]
    started, ended = _run(command, folder)
    trials = []
    for file in (folder / "here" / "trials").glob("*/result.json"):
        curve = json.loads(file.read_text())["curve"]
        begun = curve[0][ENDED_AT] - curve[0]["device_seconds"]
        trials.append(Ended(begun, curve[-1][ENDED_AT], curve[-1]["val_accuracy"]))
    return Search(started, ended, searched.concurrent, _in_order(trials))


def trials_per_hour(searched: Searched, rounds: int, folder: Path) -> list[Row]:
    """The same number of trials, all run to their end."""
    sides = _in_turns({"plain": plain_search, "here": our_search}, searched, rounds, folder)

    def row(what: str, of: Callable[[Search], float], target: float | None = None) -> Row:
        plain, here = ([of(search) for search in sides[side]] for side in ("plain", "here"))
        told = [f"{statistics.median(seconds):.1f} s" for seconds in (plain, here)]
        ratio = median_ratio(plain, here)
        return Row(what=what, case=case, plain=told[0], here=told[1], ratio=ratio, target=target)

    case = f"{searched.teacher} > {searched.student}, {searched.trials} trials of {searched.epochs} epochs"
    overhead = statistics.median(search.between for search in sides["here"])
    plain_overhead = statistics.median(search.between for search in sides["plain"])
    return [
        row("whole search", lambda search: search.seconds, TRIALS_TARGET),
        row("start-up, until a trial trains", lambda search: search.start_up),
        row("training of a trial", lambda search: search.training),
        row("from a trial to the next", lambda search: search.between),
        row("closing", lambda search: search.closing),
        Row(
            what="overhead of a trial in seconds",
            case=case,
            plain=f"{plain_overhead:.2f} s",
            here=f"{overhead:.2f} s",
            ratio=overhead,
            target=OVERHEAD_TARGET,
            at_most=True,
        ),
    ]


def time_to_accuracy(searched: Searched, generosity: int, rounds: int, folder: Path) -> list[Row]:
    """How long it takes until a trial ends with the held-out accuracy that half of the plain searches reach at all.
    Ours stop early, and may try ``generosity`` times as many trials. A round has a seed of its own."""
    precision = "bfloat16" if native_bfloat16() else "float32"
    plain, here = [], []
    for number in range(rounds):
        seeded = replace(searched, seed=number)
        plain.append(plain_search(seeded, folder / f"accuracy-plain-{number}"))
        more = replace(seeded, trials=searched.trials * generosity)
        here.append(our_search(more, folder / f"accuracy-here-{number}", scheduler="asha", precision=precision))
        for side, search in (("plain", plain[-1]), ("here", here[-1])):
            best = ", ".join(f"{accuracy:.4f} after {seconds:.0f} s" for seconds, accuracy in search.improvements())
            print(f"{side}, seed {number}: {best}; all of it {search.seconds:.0f} s", flush=True)
    wanted = reached_by_half(plain)
    slow, fast = half_until(wanted, plain), half_until(wanted, here)
    reached = sum(search.until(wanted) < math.inf for search in here)
    return [
        Row(
            what=f"seconds to {100 * wanted:.2f} %, which half of {rounds} plain searches of {searched.trials} reach",
            case=f"{searched.data}, {searched.epochs} epochs, {precision}; reached by {reached} of {rounds} here",
            plain=f"{slow:.0f} s",
            here=f"{fast:.1f} s",
            ratio=slow / fast,
            target=ACCURACY_TARGET,
        )
    ]


def reached_by_half(searches: list[Search]) -> float:
    """The highest accuracy that at least half of them reach."""
    return statistics.median_high(max(trial.accuracy for trial in search.trials) for search in searches)


def half_until(accuracy: float, searches: list[Search]) -> float:
    """Seconds after which at least half of them have it; infinite where fewer ever do."""
    return statistics.median_low(search.until(accuracy) for search in searches)


def _in_turns(
    sides: dict[str, Callable[[Searched, Path], Search]], searched: Searched, rounds: int, folder: Path
) -> dict[str, list[Search]]:
    found: dict[str, list[Search]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            search = sides[side](searched, folder / f"{side}-{number}")
            found[side].append(search)
            print(
                f"{side}: {search.seconds:.1f} s, start-up {search.start_up:.1f}, trial {search.training:.1f}, "
                f"between {search.between:.2f}, closing {search.closing:.1f}",
                flush=True,
            )
    return found


def _in_order(trials: list[Ended]) -> list[Ended]:
    return sorted(trials, key=lambda trial: trial.ended)


def _run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a module to its end, its output in ``log.txt``; time.time() before and after."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    started = time.time()
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_SECONDS,
        )
    ended = time.time()
    if done.returncode:
        print((folder / "log.txt").read_text()[-4000:], file=sys.stderr)
        raise SystemExit(f"{command[0]} ended with {done.returncode}")
    return started, ended


def cifar_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    searched = Searched(
        data="cifar100",
        image_size=32,
        held_out=0.1,
        teacher="resnet56",
        student="resnet20",
        queue_size=options.queue_size,
        epochs=options.epochs,
        trials=options.trials,
        concurrent=options.concurrent,
        root=folder / "files",
        checkpoint=folder / "drawn.pth",
    )
    write_cifar100(searched.root, options.images)
    write_drawn_teacher(searched.teacher, searched.data, searched.checkpoint)
    return trials_per_hour(searched, options.rounds, folder)


def digits_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    base = quickstart.BASE
    searched = Searched(
        data=base.data.name,
        image_size=base.data.image_size,
        held_out=base.data.held_out,
        teacher=base.teacher.architecture,
        student=base.student,
        queue_size=rrd.rrd_of(base).queue_size,
        epochs=options.digits_epochs,
        trials=options.digits_trials,
        concurrent=options.concurrent,
        root=folder / "digits",
        checkpoint=folder / "trained.pth",
    )
    searched.root.mkdir()
    write_trained_teacher(searched, options.teacher_epochs)
    return time_to_accuracy(searched, options.generosity, options.rounds, folder)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--only", choices=("trials", "accuracy"), help="one of the two tables")
    add("--rounds", type=int, default=ROUNDS, help="searches of each side")
    add("--concurrent", type=int, default=2, help="trials at a time")
    add("--images", type=int, default=1024, help="in the training files, a tenth of them held out")
    add("--epochs", type=int, default=6, help="of each trial")
    add("--trials", type=int, default=8, help="of each search")
    add("--queue-size", type=int, default=16384, help="teacher embeddings in the memory")
    add("--digits-epochs", type=int, default=quickstart.BASE.epochs, help="later all trials reach the same accuracy")
    add("--digits-trials", type=int, default=48, help="of the plain search")
    add("--generosity", type=int, default=3, help="times as many trials may ours try, stopping most of them")
    add("--teacher-epochs", type=int, default=quickstart.BASE.teacher.epochs, help="of the teacher on digits")
    return parser


def rows(options: argparse.Namespace) -> list[Row]:
    made = []
    with TemporaryDirectory() as folder:
        if options.only in (None, "trials"):
            made += cifar_rows(options, Path(folder))
        if options.only in (None, "accuracy"):
            made += digits_rows(options, Path(folder))
    return made


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends the search that runs, too
    print(table(rows(parser().parse_args())))

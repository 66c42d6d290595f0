"""How many students share a device best: a few seconds of training with 1, 2, 4 ... at once; the best total wins."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.config import TrialConfig
from trainables.places import Places

COUNTS = (1, 2, 4, 8, 16)
SECONDS = 5.0  # of training for each count
LEAST_GAIN = 1.05  # in images per second over the best so far, else fewer students are the simpler choice
FULL = 0.9  # of the device's memory: trials differ in the size of their queues


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``students`` on one device at once: what they train together, and the memory that is then in use."""

    students: int
    images_per_second: float
    used_bytes: int
    device_bytes: int

    @property
    def fits(self) -> bool:
        return self.used_bytes <= FULL * self.device_bytes


def preflight(config: TrialConfig, places: Places, device: str, seconds: float = SECONDS) -> Iterator[Measured]:
    """Measure more and more students on one ``device``, until they do not fit or gain no more.

    ValueError where not even one trains, with its last words.
    """
    best = 0.0
    for students in COUNTS:
        measured = measure(config, places, device, students, seconds)
        if measured is None:
            return
        yield measured
        if not measured.fits or measured.images_per_second < LEAST_GAIN * best:
            return
        best = max(best, measured.images_per_second)


def choose(measured: list[Measured]) -> int:
    """The fewest students that are within ``LEAST_GAIN`` of the best total that fits."""
    fitting = [one for one in measured if one.fits] or measured[:1]
    best = max(one.images_per_second for one in fitting)
    return min(one.students for one in fitting if one.images_per_second * LEAST_GAIN > best)


def measure(config: TrialConfig, places: Places, device: str, students: int, seconds: float) -> Measured | None:
    """``students`` processes that train the config at once; None where the device does not hold them all."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        source = Path(folder) / "config.yaml"
        source.write_text(config.to_yaml())
        command = [sys.executable, "-m", "trainables.preflight", str(source), "--device", device]
        command += ["--storage", str(places.storage), "--data-root", str(places.data_root), "--seconds", str(seconds)]
        running = [_started(command, stack) for _ in range(students)]
        ready = [process.stdout.readline().strip() == "ready" for process in running if process.stdout]
        for process in running:
            _let_go(process) if all(ready) else process.kill()
        said = [process.communicate() for process in running]
    if not all(ready) or any(process.returncode for process in running):
        if students == 1:
            last = (said[0][1].strip().splitlines() or ["it said nothing"])[-1]
            raise ValueError(f"--gpus-per-worker auto: not even one student trains on the device: {last}")
        return None
    results = [json.loads(output.splitlines()[-1]) for output, _ in said]
    return Measured(
        students=students,
        images_per_second=sum(result["images_per_second"] for result in results),
        used_bytes=max(result["used_bytes"] for result in results),
        device_bytes=results[0]["device_bytes"],
    )


def _let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None, "it was started with a pipe"
    with contextlib.suppress(BrokenPipeError):  # it has ended, which its exit code tells
        process.stdin.write("go\n")
        process.stdin.flush()


def _started(command: list[str], stack: contextlib.ExitStack) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    stack.callback(process.kill)
    return process

"""A search on a cluster of hosts, and what is seen of it from outside: its trials' files, and where they train."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from hosts import SHARED, Host
from laptop import HEAD, Laptop

NAME, TRIALS, EPOCHS = "quickstart", 2, 8
IDS = {"00000", "00001", "ref-kd-alone", "ref-student-alone"}  # of the trials, and of the space's references
COMMAND = (  # a worker takes all CPUs of a host, so that a trial stretches over two
    "python -m rrd_search.tune quickstart --workers-per-trial 2 --cpus-per-worker $(nproc) "
    f"--trials {TRIALS} --epochs {EPOCHS} --set teacher.epochs=2 --scheduler none"
)
WORKER = "ray::RayTrainWorker"
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Training:
    """A trial that has a checkpoint and no result yet, and one of the hosts that it trains on."""

    trial_id: str
    host: Host
    pids: frozenset[int]  # of its workers there


class ClusterSearch:
    """Started from the laptop."""

    def __init__(self, laptop: Laptop, log: Path) -> None:
        self.laptop, self.log = laptop, log
        self.process = laptop.start_exec(COMMAND, log)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def await_training(self, seconds: float, besides: frozenset[str] = frozenset()) -> Training:
        """Wait until another trial than these is in the middle, and say where; the head does not count."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.said
            for trial_id in self.unfinished() - besides:
                for number in self.laptop.workers:
                    host = self.laptop.hosts[number]
                    if host.is_on and (pids := workers_on(host)):
                        return Training(trial_id, host, pids)
            time.sleep(LOOK_SECONDS)
        raise AssertionError(f"no trial trains: {self.said}")

    def unfinished(self) -> set[str]:
        """The trials with a checkpoint and no result."""
        files = self._files()
        return {one for one, names in files.items() if "result.json" not in names and any(map(is_checkpoint, names))}

    def curves(self) -> dict[str, dict[int, float]]:
        """The held-out accuracy after each epoch of each finished trial, by its id."""
        curves = {}
        for trial_id, names in self._files().items():
            if "result.json" in names:
                result = json.loads(self.laptop.head.run(f"cat {SHARED}/{NAME}/trials/{trial_id}/result.json"))
                curves[trial_id] = {int(epoch["epoch"]): epoch["val_accuracy"] for epoch in result["curve"]}
        return curves

    def wait(self, seconds: float) -> None:
        assert self.process.wait(seconds) == 0, self.said

    def _files(self) -> dict[str, set[str]]:
        """The names of the files that the shared folder holds of each trial."""
        found: dict[str, set[str]] = {}
        listed = self.laptop.head.run(f"find {SHARED}/{NAME}/trials -mindepth 2 -maxdepth 2 -printf '%P\\n' || true")
        for path in listed.splitlines():
            trial_id, slash, name = path.partition("/")
            if slash and "find:" not in path:
                found.setdefault(trial_id, set()).add(name)
        return found


def is_checkpoint(name: str) -> bool:
    return name.startswith("checkpoint-") and name.endswith(".pt")


def workers_on(host: Host) -> frozenset[int]:
    """The processes that train there."""
    return frozenset(pid for pid, command in host.processes().items() if command.startswith(WORKER))


def actors_on(host: Host) -> set[str]:
    """The names of all actors of Ray's that run there."""
    return {command.removeprefix("ray::").split(".")[0] for command in host.processes().values() if "ray::" in command}


def others(laptop: Laptop) -> list[Host]:
    """The hosts beside the head."""
    return [laptop.hosts[number] for number in laptop.workers if number != HEAD]

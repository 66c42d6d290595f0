"""A search on a cluster of hosts, and what is seen of it from outside: its trials' files, and where they train."""

import json
import os
import re
import time
from dataclasses import dataclass

from hosts import SHARED, Host, await_true
from laptop import Laptop

NAME, TRIALS, EPOCHS = "quickstart", 1, 5
IDS = {"00000", "ref-kd-alone", "ref-student-alone"}  # of the trial, and of the space's references
COMMAND = (  # a worker takes all CPUs of a host, so that a trial stretches over two
    f"python -m rrd_search.tune quickstart --workers-per-trial 2 --cpus-per-worker {os.cpu_count()} "
    f"--trials {TRIALS} --epochs {EPOCHS} --teacher resnet8 --set teacher.epochs=2 --scheduler none"
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
    """Started from the laptop; it goes on without it, in a tmux on the head."""

    def __init__(self, laptop: Laptop) -> None:
        self.laptop = laptop
        laptop.exec(f"{COMMAND} > search.log 2>&1; echo exit $? >> search.log", "--tmux")

    @property
    def said(self) -> str:
        return self.laptop.head.run("touch search.log; cat search.log")

    @property
    def code(self) -> int | None:
        """Its exit code, when it has ended."""
        ended = re.search(r"^exit (\d+)$", self.said, re.MULTILINE)
        return int(ended[1]) if ended else None

    def await_training(self, seconds: float, besides: frozenset[str] = frozenset()) -> Training:
        """Wait until another trial than these is in the middle, and say where; the head does not count."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.code is None, self.said
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
        await_true("the end of the search", lambda: self.code is not None, seconds, 0.5)
        assert self.code == 0, self.said

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

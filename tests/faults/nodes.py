"""A cluster of several Ray nodes on this machine: real raylets, which a test can kill, and real workers on them."""

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any, Self

import ray
from ray.cluster_utils import Cluster
from searches import HERE, MARK, ROOT, WAIT_SECONDS, marked

NODES, CPUS = 2, 2  # beside the head, which runs no trials
STORE_BYTES = 80 * 2**20
TRIAL = ("ray::Trial", "ray::ResourceTrainable")  # how Ray calls the process of one, idle and at work


class Nodes:
    """Started on entry. Its workers write to ``witness``, whatever driver they serve: nodes have an environment."""

    def __init__(self, witness: Path) -> None:
        self._mark = uuid.uuid4().hex
        path = os.pathsep.join(str(folder) for folder in (HERE / "witness", HERE, ROOT))
        self._own = {MARK: self._mark, "RRD_WITNESS": str(witness), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._own |= {"RAY_AUTH_MODE": "disabled"}
        self._before: dict[str, str | None] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to be let in."""
        return {"RAY_AUTH_MODE": "disabled"}

    def __enter__(self) -> Self:
        self._before = {name: os.environ.get(name) for name in self._own}
        os.environ.update(self._own)
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self._cluster.address
        for _ in range(NODES):
            self.add()
        ray.init(address=self.address, logging_level="ERROR", log_to_driver=False)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self._cluster.shutdown()
        for pid in marked(self._mark):
            with contextlib.suppress(ProcessLookupError):
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

    def add(self) -> None:
        self._cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES)

    def actor(self) -> int:
        """The process that waits for a trial's workers, or is its only one: the youngest, as those of earlier searches
        may not have ended yet."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            trials = [pid for pid, command in marked(self._mark).items() if command.startswith(TRIAL)]
            if trials:
                return max(trials, key=_started)
            time.sleep(0.1)
        raise AssertionError("no trial has an actor")

    def groups(self) -> int:
        """How many placement groups hold or want resources."""
        table: dict[str, Any] = ray.util.placement_group_table()
        return sum(group["state"] != "REMOVED" for group in table.values())


def _started(pid: int) -> int:
    """In the machine's ticks; -1 where it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return -1


def raylet_of(pid: int) -> int:
    """That of a worker is its parent."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))

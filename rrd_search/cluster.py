"""The Ray that a search runs on: this machine's own, or a running cluster; and what fits on its nodes."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import ray

from rrd_search.node_types import NODE_GROUP, NONE, NodeTypes, read_node_types
from rrd_search.own_ray import QUIETLY, OwnRay, first_line, no_start
from trainables.resources import Resources

CONNECT_SECONDS = 10.0
JOIN_SECONDS = 600.0
THIS_MACHINE = "local"  # an address: no cluster
_LOG = logging.getLogger(__name__)


class Cluster:
    """On entry this machine's own begins to start; ``join`` waits for it, or joins the cluster at ``address``. On exit
    it is left, and ended where it is this machine's own. It may be entered twice: the first exit counts.

    Ray's token authentication stays on: its processes listen on all interfaces, whatever they are told.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._own: OwnRay | None = None
        self._joined = False
        self._node_types = NONE

    @property
    def is_here(self) -> bool:
        """Whether it is this machine alone."""
        return self.address is None

    @property
    def entry(self) -> str:
        """What a person is told before it is joined, which takes seconds."""
        return "starting Ray ..." if self.is_here else f"joining the cluster at {self.address} ..."

    def __enter__(self) -> Self:
        if self.is_here and self._own is None:
            self._own = OwnRay()
        return self

    def check(self) -> None:
        """ValueError where no cluster answers at ``address``."""
        if self.address is not None:
            _check_answers(self.address)

    def join(self) -> None:
        """ValueError where no cluster answers at ``address``, OSError where this machine's own does not start."""
        if self.address is not None:
            self._node_types = _join(self.address)
        else:
            assert self._own is not None, "it is entered before it is joined"
            _join_own(self._own.address())
        self._joined = True

    def leave(self) -> None:
        """Nothing runs on it any more. This machine's own ends beside whatever follows."""
        if not self._joined:
            return
        self._joined = False
        try:
            ray.shutdown()
        finally:
            if self._own is not None:
                self._own.end()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.leave()
        finally:
            own, self._own = self._own, None
            if own is not None:
                own.close()

    def nodes(self) -> list[dict[str, float]]:
        """What each node that is alive holds."""
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def await_servers(self, say: Callable[[str], None]) -> None:
        """Own servers join one by one, long after `ray up` has returned where they have yet to install the project.
        Wait for those that its file names, but not for ever."""
        expected, deadline = 1 + self._node_types.own, time.monotonic() + JOIN_SECONDS
        there = 0
        while (now := len(self.nodes())) < expected and time.monotonic() < deadline:
            if now != there:
                minutes = f"{JOIN_SECONDS / 60:.0f} minutes"
                say(f"{now} of {expected} servers have joined; waiting up to {minutes} for the rest ...")
            there = now
            time.sleep(1)
        if now < expected and self._node_types.own:
            say(f"going on with {now} of {expected} servers; the others are taken when they join")

    def startable(self) -> list[dict[str, float]]:
        """What each node holds that an autoscaler could start beside them."""
        alive = [node.get("Labels", {}).get(NODE_GROUP, "") for node in ray.nodes() if node["Alive"]]
        return self._node_types.startable(alive)


def _join_own(address: str) -> None:
    """Show the token that its Ray wants, as Ray does where it starts one itself."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray._raylet.Config.initialize("")  # type: ignore[attr-defined]  # the variable is read when Ray is imported
    try:
        ray.init(address=address, **QUIETLY)
    except Exception as error:  # of no class
        raise no_start(first_line(error)) from error


def _join(address: str) -> NodeTypes:
    """Join the cluster; the types of nodes that it may start. ValueError where it does not answer."""
    _check_answers(address)  # Ray itself waits for minutes
    try:
        ray.init(address=address, **QUIETLY)
    except Exception as error:  # of no class
        raise ValueError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error
    own, head = ray.get_runtime_context(), ray.get_runtime_context().gcs_address.rpartition(":")[0]
    here = {node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own.get_node_id()}
    return read_node_types(on_head=head in here)


def chosen_cluster(address: str | None) -> str | None:
    """The address of the cluster that ``--address`` asks for: without it the one that this machine is in, which is what
    RAY_ADDRESS says, or where `ray start` put one. None: this machine alone. ValueError for what is no address of a
    cluster; whether one answers is for ``Cluster.check``."""
    if address is not None and address.startswith("http"):
        raise ValueError(f"--address {address} is for `ray job`: give HOST:PORT, the head's, or {THIS_MACHINE}")
    asked = address or os.environ.get("RAY_ADDRESS")
    address = asked or _started_here()
    if not address or address == THIS_MACHINE or address.startswith("http"):  # which is meant for `ray job`
        return None
    if asked or "RRD_STORAGE" in os.environ:  # which nodes of a cluster have
        return address
    try:
        _check_answers(address)
    except ValueError:
        _LOG.warning("the Ray that was started here, %s, does not answer: this machine alone is taken", address)
        return None
    return address


def _started_here() -> str | None:
    """Where this user's last `ray start` on this machine put a cluster; /tmp is everybody's."""
    file = Path(ray._private.utils.get_ray_address_file(None))
    return file.read_text().strip() if file.is_file() and file.stat().st_uid == os.getuid() else None


def this_machine() -> dict[str, float]:
    import torch  # takes seconds, in which this machine's own Ray may start

    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}


def settled(workers: int, cpus: int, gpus: float | None, nodes: list[dict[str, float]]) -> Resources:
    """A trial's resources; where nothing is said of GPUs, one a worker where a node has some."""
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    return Resources(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)


def check_fits(resources: Resources, nodes: list[dict[str, float]], where: str) -> None:
    """ValueError where a trial does not fit. A worker does not stretch over two nodes."""
    a_trial = f"a trial of {resources.workers} workers" if resources.workers > 1 else "a trial"
    for kind, flag, each in (
        ("CPU", "--cpus-per-worker", resources.cpus_per_worker),
        ("GPU", "--gpus-per-worker", resources.gpus_per_worker),
    ):
        most = max((node.get(kind, 0) for node in nodes), default=0)
        wanted = each * (resources.workers if len(nodes) == 1 else 1)
        if wanted > most:
            takes = f"{a_trial} takes {each * resources.workers:g} {kind}s"
            raise ValueError(f"{flag} {each:g}: {takes}, {where} has at most {most:g} on a node")
    if (fit := workers_that_fit(resources, nodes)) < resources.workers:
        raise ValueError(f"--workers-per-trial {resources.workers}: at most {fit} such workers fit on {where}")


def has_room(resources: Resources, nodes: list[dict[str, float]]) -> bool:
    """Whether a trial fits at all."""
    return workers_that_fit(resources, nodes) >= resources.workers


def draining_nodes() -> set[str]:
    """The ids of nodes that are about to be taken away: those that Ray drains, as when they scale down."""
    return set(ray._private.state.state.get_draining_nodes())


def workers_that_fit(resources: Resources, nodes: list[dict[str, float]]) -> int:
    """On these nodes together."""
    return sum(_on(resources, node) for node in nodes)


def _on(resources: Resources, node: Mapping[str, float]) -> int:
    rooms = [int(node.get("CPU", 0) // resources.cpus_per_worker)]
    if resources.gpus_per_worker:
        rooms.append(int(node.get("GPU", 0) / resources.gpus_per_worker + 1e-9))  # 1 / 0.1 is less than 10
    return min(rooms)


def _check_answers(address: str) -> None:
    """ValueError where nothing listens at HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            why = f"no Ray cluster answers there ({error.strerror or error})"
            raise ValueError(
                f"--address {address}: {why}; --address {THIS_MACHINE} takes this machine alone"
            ) from error

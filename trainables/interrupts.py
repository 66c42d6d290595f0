"""Interrupts: how a driver asks running trials, wherever they are, to write a checkpoint and leave; and how it frees
what the workers of a trial held that could not leave."""

import asyncio
import contextlib
import threading
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

EVERYONE = "everyone"  # in place of a trial's id
WAITING_PROCESSES = 10_000  # at most


class Interrupts:
    """A Ray actor that holds who is asked to leave: ids of trials or nodes, or ``EVERYONE``.

    It also holds the placement groups of trials' workers, by their hexadecimal ids. Ray Train makes these; where its
    controller is killed, they would be free with the end of the search, for Train's cleaner asks the dashboard, which
    may not run.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._groups: dict[str, str] = {}  # by the trial's id
        self._change = asyncio.Event()

    async def ask(self, who: str) -> None:
        self._asked.add(who)
        self._tell()

    async def withdraw(self, who: str) -> None:
        self._asked.discard(who)
        self._tell()

    async def other_than(self, known: set[str]) -> set[str]:
        """Who is asked to leave, as soon as that is not what is known."""
        while self._asked == known:
            await self._change.wait()
        return self._asked

    async def hold(self, trial_id: str, group: str) -> None:
        self._groups[trial_id] = group

    async def free(self, trial_id: str) -> None:
        """The trial's process has died: what its workers held is free again."""
        if (group := self._groups.pop(trial_id, None)) is not None:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))

    def _tell(self) -> None:
        self._change.set()
        self._change = asyncio.Event()


def start_interrupts() -> Any:
    """The actor's handle. It takes no CPU of Ray's count, and stays on this node; it ends with its last handle."""
    actor: Any = ray.remote(Interrupts)
    return actor.options(num_cpus=0, max_concurrency=WAITING_PROCESSES, scheduling_strategy=on_this_node()).remote()


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where an actor is to run that this process cannot do without. Not soft: Ray puts an actor that takes no CPU on
    any node then."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Heard:
    """What a process knows of the interrupts: asking costs nothing, a thread waits for the news."""

    def __init__(self, interrupts: Any) -> None:
        self._interrupts = interrupts
        self._asked: set[str] = set()
        self._node = ray.get_runtime_context().get_node_id()
        threading.Thread(target=self._listen, name="interrupts", daemon=True).start()

    @property
    def node_leaves(self) -> bool:
        return self._node in self._asked

    def leaves(self, trial_id: str) -> bool:
        """Whether the trial, here, is to leave."""
        return self.node_leaves or EVERYONE in self._asked or trial_id in self._asked

    def _listen(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone, and Ray ends this process
            while True:
                self._asked = ray.get(self._interrupts.other_than.remote(self._asked))

"""Interrupts: how a driver asks running trials, wherever they are, to write a checkpoint and leave; and how it frees
what the workers of a trial held that could not leave."""

import logging
import threading
import time
import uuid

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

EVERYONE = "everyone"  # in place of a trial's id
LOOK_SECONDS = 0.5  # between two looks of a trial at who is asked to leave
_ASKED, _GROUPS = "asked/", "groups/"  # before an id
_CHANGE = "change"  # under which lies another word after each change
log = logging.getLogger(__name__)


class Interrupts:
    """Who is asked to leave, by the ids of trials or nodes, or ``EVERYONE``; handed on to processes of any node.

    It lies in the key-value store of Ray's head. An actor would be one more process to start before the first trial,
    and one that wakes a hundred times a second. The functions are Ray's own, and those of Ray 2.60. What a killed
    driver leaves there is a few bytes that nobody reads.

    It also holds the placement groups of trials' workers, by their hexadecimal ids. Ray Train makes these; where its
    controller is killed, they would be free with the end of the search, for Train's cleaner asks the dashboard, which
    may not run.
    """

    def __init__(self) -> None:
        self._name = f"interrupts-{uuid.uuid4().hex}"

    def ask(self, who: str) -> None:
        internal_kv._internal_kv_put(_ASKED + who, b"", namespace=self._name)
        self._tell()

    def withdraw(self, who: str) -> None:
        internal_kv._internal_kv_del(_ASKED + who, namespace=self._name)
        self._tell()

    def change(self) -> bytes | None:
        """Another word than before where somebody was asked since, or needs not leave after all. Looking at it costs
        next to nothing, however many do."""
        word: bytes | None = internal_kv._internal_kv_get(_CHANGE, namespace=self._name)
        return word

    def asked(self) -> set[str]:
        keys = internal_kv._internal_kv_list(_ASKED, namespace=self._name)
        return {key.decode().removeprefix(_ASKED) for key in keys}

    def hold(self, trial_id: str, group: str) -> None:
        internal_kv._internal_kv_put(_GROUPS + trial_id, group, namespace=self._name)

    def free(self, trial_id: str) -> None:
        """The trial's process has died: what its workers held is free again."""
        group = internal_kv._internal_kv_get(_GROUPS + trial_id, namespace=self._name)
        if group is not None:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group.decode())))
            internal_kv._internal_kv_del(_GROUPS + trial_id, namespace=self._name)

    def close(self) -> None:
        """No trial runs any more. One that runs all the same stays asked."""
        internal_kv._internal_kv_del("", del_by_prefix=True, namespace=self._name)

    def _tell(self) -> None:
        internal_kv._internal_kv_put(_CHANGE, uuid.uuid4().hex, namespace=self._name)


class Heard:
    """What a process knows of the interrupts: asking costs nothing, a thread looks for news."""

    def __init__(self, interrupts: Interrupts) -> None:
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
        """Until the process ends, as Ray sees to where its head is gone for long."""
        known = None
        while True:
            try:
                if (change := self._interrupts.change()) not in (known, None):
                    known, self._asked = change, self._interrupts.asked()
            except Exception as error:  # of no class
                log.warning("who is asked to leave is not known for now: %s", error)
            time.sleep(LOOK_SECONDS)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where an actor is to run that this process cannot do without. Not soft: Ray puts an actor that takes no CPU on
    any node then."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

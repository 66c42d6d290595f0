"""Who is asked to leave is heard in other processes of a real Ray, by the trials of that search alone."""

import time
from collections.abc import Callable

import pytest
import ray
from ray.experimental import internal_kv
from waiting import soon

from trainables.interrupts import EVERYONE, LOOK_SECONDS, Heard, Interrupts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]


@ray.remote
class Trial:
    """What a trial's process knows."""

    def __init__(self, interrupts: Interrupts) -> None:
        self.heard = Heard(interrupts)

    def leaves(self) -> list[str]:
        return [name for name in ("00000", "00001") if self.heard.leaves(name)]

    def node_leaves(self) -> bool:
        return self.heard.node_leaves

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()


def comes(said: Callable[[], object], expected: object) -> bool:
    return soon(lambda: ray.get(said()) == expected, seconds=20)


def test_trials_of_one_search_hear_who_is_to_leave() -> None:
    interrupts, others = Interrupts(), Interrupts()
    trial = Trial.remote(interrupts)
    others.ask(EVERYONE)
    assert ray.get(trial.leaves.remote()) == []
    interrupts.ask("00001")
    assert comes(trial.leaves.remote, ["00001"])
    interrupts.withdraw("00001")
    assert comes(trial.leaves.remote, [])
    interrupts.ask(EVERYONE)
    assert comes(trial.leaves.remote, ["00000", "00001"])
    assert not ray.get(trial.node_leaves.remote())
    interrupts.ask(ray.get(trial.node.remote()))
    assert comes(trial.node_leaves.remote, True)
    assert others.asked() == {EVERYONE}


def test_who_was_asked_leaves_after_the_search_has_ended_too() -> None:
    interrupts = Interrupts()
    trial = Trial.remote(interrupts)
    interrupts.ask("00000")
    assert comes(trial.leaves.remote, ["00000"])
    interrupts.close()
    time.sleep(2 * LOOK_SECONDS)
    assert ray.get(trial.leaves.remote()) == ["00000"]


def test_a_look_that_fails_is_followed_by_others() -> None:
    class FailsAtFirst(Interrupts):  # in here, and so sent whole: Ray's processes do not find this file
        failed = False

        def change(self) -> bytes | None:
            if not self.failed:
                self.failed = True
                raise OSError("the head does not answer")
            return Interrupts.change(self)

    interrupts = FailsAtFirst()
    interrupts.ask("00000")
    assert comes(Trial.remote(interrupts).leaves.remote, ["00000"])


def test_nothing_is_left_of_a_search_that_has_ended() -> None:
    interrupts = Interrupts()
    interrupts.ask("00000")
    interrupts.hold("00000", "ab")
    assert len(internal_kv._internal_kv_list("", namespace=interrupts._name)) == 3
    interrupts.close()
    assert interrupts.asked() == set()
    assert internal_kv._internal_kv_list("", namespace=interrupts._name) == []

"""Published points and references run to their end under every scheduler, however bad they look."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from rrd_search.early_stopping import SCHEDULERS, SPARED, Sparing
from rrd_search.request import SCHEDULERS as OFFERED

EPOCHS = 9


class Stub(SimpleNamespace):
    __hash__ = object.__hash__


def trial(number: int, spared: str = "") -> Any:
    return Stub(trial_id=f"t{number}", config={SPARED: spared}, status="RUNNING", is_finished=lambda: False)


def test_the_command_offers_what_there_is() -> None:
    assert tuple(SCHEDULERS) == OFFERED


@pytest.mark.parametrize("name", SCHEDULERS)
def test_spared_trials_are_never_stopped(name: str) -> None:
    scheduler = Sparing(SCHEDULERS[name](EPOCHS))
    others = [trial(number) for number in range(6)]
    spared = [trial(10, "point"), trial(11, "reference")]
    controller: Any = SimpleNamespace(get_trials=lambda: [*others, *spared], get_live_trials=lambda: [])
    for one in [*others, *spared]:
        scheduler.on_trial_add(controller, one)
    for epoch in range(1, EPOCHS):
        for one in list(others):
            result = {"epoch": epoch, "val_accuracy": 0.9, "training_iteration": epoch, "time_total_s": epoch}
            decision = scheduler.on_trial_result(controller, one, result)
            assert decision != TrialScheduler.PAUSE
            if decision == TrialScheduler.STOP:
                others.remove(one)
        for one in spared:
            result = {"epoch": epoch, "val_accuracy": 0.1, "training_iteration": epoch, "time_total_s": epoch}
            assert scheduler.on_trial_result(controller, one, result) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_others_are_stopped_when_they_are_bad(name: str) -> None:
    scheduler = Sparing(SCHEDULERS[name](EPOCHS))
    others, bad = [trial(number) for number in range(6)], trial(7)
    controller: Any = SimpleNamespace(get_trials=lambda: [*others, bad], get_live_trials=lambda: [])
    for one in [*others, bad]:
        scheduler.on_trial_add(controller, one)
    decisions = []
    for epoch in range(1, EPOCHS):
        for one in [*others, bad]:
            value = 0.1 if one is bad else 0.9
            result = {"epoch": epoch, "val_accuracy": value, "training_iteration": epoch, "time_total_s": epoch}
            decision = scheduler.on_trial_result(controller, one, result)
            if one is bad:
                decisions.append(decision)
        if TrialScheduler.STOP in decisions:
            return
    assert name == "hyperband", "a trial of hyperband may be in the bracket that does not stop"

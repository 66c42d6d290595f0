"""Early stopping: who is stopped and who never is, whatever comes in one report, and what a restart remembers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from rrd_search.early_stopping import SCHEDULERS, SPARED, Audits, Sparing
from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig
from trainables.rungs import rungs

EPOCHS = 18
RUNGS = (2, 6, 12)
CONFIG = TrialConfig(epochs=EPOCHS)
CONTROLLER: Any = SimpleNamespace(get_live_trials=lambda: [])
STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def trial(name: str, spared: str = "") -> Any:
    return SimpleNamespace(trial_id=f"tune-{name}", config={"trial_id": name, "rungs": RUNGS, SPARED: spared})


def report(value: float, *epochs: int) -> dict[str, Any]:
    """Of trials whose averaged student is better than they are."""
    curve: list[dict[str, float]] = [{"epoch": epoch, "val_accuracy": value} for epoch in epochs]
    for metrics in curve:
        if metrics["epoch"] in RUNGS:
            metrics["averaged_val_accuracy"] = value + 0.1
    return {**curve[-1], "curve": curve}


def record(name: str, rung_values: dict[int, float], **more: Any) -> TrialRecord:
    curve = dict.fromkeys(range(1, max(rung_values, default=0) + 1), 0.5)
    known = {
        "trial_id": name,
        "state": "pruned",
        "value": 0.5,
        "epochs": len(curve),
        "params": {},
        "plain_config": CONFIG.to_dict(),
    }
    known |= {"point": None, "reference": False, "curve": curve, "rungs": rung_values, "audited": None}
    return TrialRecord(**(known | {"reason": None} | more))


def sparing(name: str = "asha", audits: int = 0, records: Sequence[TrialRecord] = (), trials: int = 12) -> Sparing:
    taken = Audits(audits, trials, records, lambda trial_id, epoch: None)
    return Sparing(SCHEDULERS[name](EPOCHS), taken, records)


def test_rungs_of_this_file() -> None:
    assert rungs(CONFIG) == RUNGS


@pytest.mark.parametrize("name", SCHEDULERS)
def test_spared_trials_are_never_stopped(name: str) -> None:
    scheduler = sparing(name)
    others = [trial(f"{number}") for number in range(6)]
    spared = [trial("point", "point"), trial("reference", "reference")]
    for epoch in range(1, EPOCHS):
        for one in list(others):
            if scheduler.on_trial_result(CONTROLLER, one, report(0.8, epoch)) == STOP:
                others.remove(one)
        for one in spared:
            assert scheduler.on_trial_result(CONTROLLER, one, report(0.1, epoch)) == CONTINUE


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_others_are_stopped_when_they_are_bad(name: str) -> None:
    scheduler = sparing(name)
    for epoch in range(1, EPOCHS):
        for number in range(6):
            assert scheduler.on_trial_result(CONTROLLER, trial(f"{number}"), report(0.8, epoch)) == CONTINUE
        if scheduler.on_trial_result(CONTROLLER, trial("bad"), report(0.1, epoch)) == STOP:
            return
    assert name == "hyperband", "a trial of hyperband may be in the bracket that does not stop"


def reports_of(curves: np.ndarray, *, at_once: int) -> dict[str, tuple[str, int]]:
    """What becomes of trials that run in turns, ``at_once`` epochs in a report: the last decision and epoch of each."""
    scheduler, ended = sparing(), {}
    for number, curve in enumerate(curves):
        one, decision = trial(f"{number}"), CONTINUE
        last = 0
        while last < EPOCHS and decision == CONTINUE:
            epochs = range(last + 1, min(last + at_once, EPOCHS) + 1)
            told = {**report(0.5, *epochs)}
            for metrics in told["curve"]:
                if "averaged_val_accuracy" in metrics:
                    metrics["averaged_val_accuracy"] = float(curve[int(metrics["epoch"]) - 1])
            last = epochs[-1]
            if last == EPOCHS:
                scheduler.on_trial_complete(CONTROLLER, one, told)
            else:
                decision = scheduler.on_trial_result(CONTROLLER, one, told)
        ended[f"{number}"] = decision, last
    return ended


def test_decisions_are_those_of_tunes_asha_with_rungs_anywhere() -> None:
    """A plain ASHA that is told 1, 3 and 9 where ours has the epochs 2, 6 and 12."""
    curves = np.random.default_rng(0).random((40, EPOCHS))
    plain = AsyncHyperBandScheduler(time_attr="t", metric="m", mode="max", max_t=27, reduction_factor=3)
    expected = {}
    for number, curve in enumerate(curves):
        one: Any = SimpleNamespace(trial_id=f"{number}")
        plain.on_trial_add(CONTROLLER, one)
        stops = (
            epoch
            for time, epoch in zip((1, 3, 9), RUNGS, strict=True)
            if plain.on_trial_result(CONTROLLER, one, {"t": time, "m": curve[epoch - 1]}) == STOP
        )
        stop = next(stops, None)
        expected[f"{number}"] = (CONTINUE, EPOCHS) if stop is None else (STOP, stop)
    assert {epoch for _, epoch in expected.values()} == {*RUNGS, EPOCHS}
    assert reports_of(curves, at_once=1) == expected
    several = reports_of(curves, at_once=5)
    assert {name: decision for name, (decision, _) in several.items()} == {
        name: decision for name, (decision, _) in expected.items()
    }


def test_without_an_averaged_accuracy_there_is_no_rung() -> None:
    scheduler = sparing()
    for value in (0.9, 0.1):
        plain = {"epoch": 2, "val_accuracy": value}
        assert scheduler.on_trial_result(CONTROLLER, trial(f"{value}"), plain | {"curve": [plain]}) == CONTINUE


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_restart_remembers_what_trials_reached(name: str) -> None:
    """The first trial of the new process meets full rungs; a resumed one is not judged again by what it reached."""
    records = [
        record(f"{number}", {2: 0.9, 6: 0.9, 12: 0.9}, curve=dict.fromkeys(range(1, 13), 0.9)) for number in (0, 1, 2)
    ]
    records.append(record("resumed", {2: 0.2, 6: 0.2}, state="running"))
    scheduler = sparing(name, records=records)
    again = trial("resumed")
    assert scheduler.on_trial_result(CONTROLLER, again, report(0.2, 1, 2, 3, 4, 5, 6)) == CONTINUE
    assert scheduler.on_trial_result(CONTROLLER, trial("new"), report(0.2, 1, 2, 3)) == STOP
    assert scheduler.on_trial_result(CONTROLLER, again, report(0.2, 7, 8, 9, 10, 11, 12)) == STOP
    if name == "asha":
        inner: Any = scheduler._judge
        first, second, third = (values for _, values in reversed(inner._inner._brackets[0]._rungs))
        assert first.keys() == {"0", "1", "2", "resumed", "new"}
        assert second.keys() == third.keys() == {"0", "1", "2", "resumed"}


def test_a_trial_has_the_same_bracket_after_a_restart() -> None:
    names = [f"{number:05d}" for number in range(30)]
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)
        scheduler = sparing("hyperband")
        for name in names:
            scheduler.on_trial_result(CONTROLLER, trial(name), report(0.5, 1, 2))
        judge: Any = scheduler._judge
        drawn.append([judge._inner._brackets.index(judge._inner._trial_info[name]) for name in names])
        assert np.random.random() == np.random.RandomState(seed).random_sample(), "others' numbers are left alone"
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


def stop_all(scheduler: Sparing, names: Sequence[str]) -> list[str]:
    """Let trials be worse and worse; those that are stopped."""
    reports = {name: report(0.8 - 0.01 * place, 1, 2) for place, name in enumerate(names)}
    return [name for name, told in reports.items() if scheduler.on_trial_result(CONTROLLER, trial(name), told) == STOP]


def test_audited_trials_run_on_and_are_spread() -> None:
    told: list[tuple[str, int]] = []
    scheduler = Sparing(SCHEDULERS["asha"](EPOCHS), Audits(2, 20, (), lambda *what: told.append(what)))
    names = [f"{number}" for number in range(20)]
    stopped = stop_all(scheduler, names)
    assert told == [("3", 2), ("8", 2)], "the third of every five stops, the best trial being no stop"
    assert set(names) - set(stopped) == {"0", "3", "8"}
    assert scheduler.on_trial_result(CONTROLLER, trial("3"), report(0.0, *range(3, EPOCHS))) == CONTINUE
    inner: Any = scheduler._judge
    assert [len(values) for _, values in inner._inner._brackets[0]._rungs] == [0, 0, 20], "the next rung is not its"


def test_audits_go_on_after_a_restart() -> None:
    records = [record("0", {2: 0.95})] * 2 + [record("a", {2: 0.1, 6: 0.95}, audited=2, state="running")]
    told: list[str] = []
    audits = Audits(2, 20, records, lambda name, epoch: told.append(name))
    scheduler = Sparing(SCHEDULERS["asha"](EPOCHS), audits, records)
    assert scheduler.on_trial_result(CONTROLLER, trial("a"), report(0.0, *range(1, EPOCHS))) == CONTINUE
    assert scheduler.on_trial_result(CONTROLLER, trial("b"), report(0.5, 6)) == CONTINUE, "that rung is empty"
    stopped = stop_all(scheduler, [f"{number}" for number in range(10, 30)])
    assert len(told) == 1, "two in all"
    assert len(stopped) == 18, "the first of them is the best but for one"


def test_no_audits() -> None:
    assert len(stop_all(sparing(audits=0, trials=20), [f"{number}" for number in range(20)])) == 19


def test_a_free_process_goes_to_the_newest_trial() -> None:
    """The older ones have processes that are being started for them."""
    trials = [SimpleNamespace(status=status) for status in ("TERMINATED", "PENDING", "RUNNING", "PENDING", "RUNNING")]
    controller: Any = SimpleNamespace(get_trials=lambda: trials)
    assert sparing().choose_trial_to_run(controller) is trials[3]
    trials[1].status = trials[3].status = "RUNNING"
    assert sparing().choose_trial_to_run(controller) is None


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_stopped_trial_is_not_judged_by_the_rest_of_its_report(name: str) -> None:
    """Tune tells the last report of a trial that it stops once more, as that of one that has ended."""
    scheduler = sparing(name)
    for number in range(6):
        better = report(0.8 + 0.01 * number, *range(1, EPOCHS))
        assert scheduler.on_trial_result(CONTROLLER, trial(f"{number}"), better) == CONTINUE
    told = report(0.1, *range(1, EPOCHS))
    for number in range(10, 20):
        if scheduler.on_trial_result(CONTROLLER, trial(f"{number}"), told) == STOP:
            break
    else:
        raise AssertionError("none of ten bad trials was stopped")
    judge: Any = scheduler._judge
    before = [str(bracket._rungs) for bracket in getattr(judge._inner, "_brackets", [])]
    scheduler.on_trial_complete(CONTROLLER, trial(f"{number}"), told)
    assert scheduler.on_trial_result(CONTROLLER, trial(f"{number}"), report(0.1, EPOCHS)) == CONTINUE
    assert [str(bracket._rungs) for bracket in getattr(judge._inner, "_brackets", [])] == before

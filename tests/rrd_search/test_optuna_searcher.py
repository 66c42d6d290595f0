"""The study behind a search: one contract for all samplers, and what it must survive."""

import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from rrd_search.optuna_searcher import Study
from rrd_search.samplers import SAMPLERS
from rrd_search.space import Space
from rrd_search.space_change import SpaceChange
from trainables.config import TrialConfig

torch.set_num_threads(1)


def mixed(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    """Ranges, categories and a condition."""
    kd_weight = trial.suggest_categorical("kd_weight", (0.0, 1.0))
    return base.with_values(
        {
            "loss.student_temperature": trial.suggest_float("loss.student_temperature", 0.02, 0.3, log=True),
            "loss.teacher_temperature": trial.suggest_float("loss.teacher_temperature", 0.01, 0.2, log=True),
            "loss.queue_size": trial.suggest_int("loss.queue_size", 16, 1024, log=True),
            "kd_weight": kd_weight,
            "kd_temperature": trial.suggest_float("kd_temperature", 1.0, 10.0) if kd_weight else 4.0,
        }
    )


def grid(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    """Six configs, of which the one with a batch of 1 is none."""
    batch = trial.suggest_categorical("batch_size", (1, 8, 16))
    return replace(base, batch_size=batch, ce_weight=trial.suggest_categorical("ce_weight", (0.5, 1.0)))


POINT: dict[str, Any] = {
    "kd_weight": 0.0,
    "loss.student_temperature": 0.04,
    "loss.teacher_temperature": 0.1,
    "loss.queue_size": 512,
}
MIXED = Space(
    name="mixed",
    function=mixed,
    base=TrialConfig(),
    start={"version 2": POINT, "with KD": POINT | {"kd_weight": 1.0, "kd_temperature": 4.0}},
    references={"KD alone": {"kd_weight": 1.0, "loss.weight": 0.0}, "Student  alone!": {"loss.weight": 0.0}},
)
GRID = Space(name="grid", function=grid, base=TrialConfig())

Open = Callable[..., Study]


@pytest.fixture
def open_study(tmp_path: Path, empty: Path) -> Any:
    """``open_study("a")`` opens the study in a file, anew or again."""
    opened = []

    def open_one(
        file: str = "a", space: Space = MIXED, sampler: str = "random", seed: int = 0, independent: bool = False
    ) -> Study:
        path = tmp_path / f"{file}.db"
        if not path.exists():
            shutil.copy(empty, path)
        opened.append(Study(f"sqlite:///{path}", "search", space, sampler, seed, independent))
        return opened[-1]

    yield open_one
    for study in opened:
        study.close()


def accuracy(config: TrialConfig) -> float:
    """Best at a student temperature of 0.1 and a queue of 128."""
    flat = config.flat()
    return (
        1
        - abs(math.log(flat["loss.student_temperature"] / 0.1)) / 9
        - abs(math.log2(flat["loss.queue_size"] / 128)) / 9
    )


def end(study: Study, trial_id: str, config: TrialConfig) -> None:
    """Every fourth is stopped early, every seventh fails."""
    number = int(trial_id)
    study.report(trial_id, 1, accuracy(config) / 2)
    if number % 4 == 3:
        study.tell(trial_id, "pruned", None)
    elif number % 7 == 6:
        study.tell(trial_id, "failed", None, "out of memory")
    else:
        study.report(trial_id, 2, accuracy(config))
        study.tell(trial_id, "complete", accuracy(config))


def propose(study: Study) -> Any:
    proposal = study.propose()
    assert proposal is not None
    return proposal


def run(study: Study, trials: int) -> list[tuple[str, str]]:
    """Two at a time, as parallel workers: the id and config of each proposal."""
    said, running = [], []
    for _ in range(trials):
        running.append(propose(study))
        said.append((running[-1].trial_id, running[-1].config.config_hash))
        if len(running) == 2:
            first = running.pop(0)
            end(study, first.trial_id, first.config)
    for one in running:
        end(study, one.trial_id, one.config)
    return said


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_contract_of_samplers(open_study: Open, sampler: str) -> None:
    """START first, no duplicates, the same proposals for the same seed, also over a restart; no warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unbroken = open_study("unbroken", sampler=sampler)
        said = run(unbroken, 10) + run(unbroken, 8)
        first = run(open_study("broken", sampler=sampler), 10)
        again = first + run(open_study("broken", sampler=sampler), 8)
        other = run(open_study("other", sampler=sampler, seed=1), 4)
    assert again == said
    assert other[:2] == said[:2]
    assert other[2:] != said[2:4]
    records = unbroken.trials()
    assert [record.trial_id for record in records] == [trial_id for trial_id, _ in said]
    assert [record.point for record in records[:3]] == ["version 2", "with KD", None]
    assert [{name: record.config.flat()[name] for name in POINT} for record in records[:1]] == [POINT]
    assert len({record.config.config_hash for record in records}) == 18
    assert {record.state for record in records} == {"complete", "pruned", "failed"}
    assert all(record.params.items() <= record.config.flat().items() for record in records)


def test_tpe_learns(open_study: Open) -> None:
    """Its later proposals are better than what chance says."""
    configs = {}
    for sampler in ("tpe", "random"):
        study = open_study(sampler, sampler=sampler)
        for _ in range(36):
            one = propose(study)
            study.tell(one.trial_id, "complete", accuracy(one.config))
        configs[sampler] = [accuracy(record.config) for record in study.trials()[16:]]
    assert sum(configs["tpe"]) / 20 > sum(configs["random"]) / 20 + 0.05


def test_optuna_hears_the_truth(open_study: Open, tmp_path: Path) -> None:
    study = open_study()
    ids = [propose(study).trial_id for _ in range(7)]
    for trial_id in ids:
        study.report(trial_id, 1, 0.5)
        study.report(trial_id, 2, 0.6)
        study.report(trial_id, 2, 0.9)  # said again after a resume
    study.tell(ids[0], "complete", 0.6)
    study.tell(ids[1], "pruned", 0.6, "stopped by the scheduler")
    study.tell(ids[2], "failed", None, "out of memory")
    study.tell(ids[3], "complete", math.nan)
    study.tell(ids[4], "complete", -math.inf)
    study.tell(ids[5], "complete", None)
    for trial_id in ids[:6]:
        study.tell(trial_id, "complete", 1.0)  # too late
        study.report(trial_id, 3, 1.0)
    records = study.trials()
    states = ["complete", "pruned", "failed", "failed", "failed", "failed", "running"]
    assert [record.state for record in records] == states
    assert [record.value for record in records] == [0.6, 0.6, None, None, None, None, None]
    assert all(record.curve == {1: 0.5, 2: 0.6} and record.epochs == 2 for record in records)
    reasons = ["out of memory", "val_accuracy is nan", "val_accuracy is -inf", "val_accuracy is None"]
    assert [record.reason for record in records[2:6]] == reasons
    best = study.best()
    assert best is not None
    assert best.trial_id == ids[0]
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}")
    names = [trial.state.name for trial in plain.trials]
    assert names == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL", "FAIL", "RUNNING"]
    assert plain.trials[1].intermediate_values == {1: 0.5, 2: 0.6}
    assert plain.user_attrs["objective"] == "val_accuracy"


def test_the_best_is_the_highest_and_earliest_complete_one(open_study: Open) -> None:
    study = open_study()
    assert study.best() is None
    for value in (0.5, 0.7, 0.7, None):
        study.tell(propose(study).trial_id, "complete" if value else "failed", value)
    pruned = propose(study).trial_id
    study.report(pruned, 1, 0.99)
    study.tell(pruned, "pruned", None)
    best = study.best()
    assert best is not None
    assert (best.trial_id, best.value) == ("00001", 0.7)
    assert study.ranked() == ["00001", "00002", "00000"]
    assert open_study().ranked() == study.ranked()


def test_a_pruned_trial_may_have_no_number_at_all(open_study: Open) -> None:
    study = open_study()
    for value in (math.nan, None):
        one = propose(study)
        if value is not None:
            study.report(one.trial_id, 1, value)
        study.tell(one.trial_id, "pruned", None)
    assert [(record.state, record.value) for record in study.trials()] == [("pruned", None)] * 2


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_a_finite_space_is_tried_once_and_then_exhausted(open_study: Open, sampler: str) -> None:
    """Two of its six points are invalid combinations: neither those nor duplicates are ever seen."""
    study = open_study(space=GRID, sampler=sampler)
    configs = set()
    for number in range(4):
        assert not study.exhausted
        one = propose(study)
        configs.add((one.config.batch_size, one.config.ce_weight))
        if number % 2:  # the others are still running
            study.tell(one.trial_id, "complete", 0.5)
    assert configs == {(8, 0.5), (8, 1.0), (16, 0.5), (16, 1.0)}
    assert study.propose() is None
    assert study.exhausted
    assert len(study.trials()) == 4
    again = open_study(space=GRID, sampler=sampler)
    assert again.propose() is None
    assert len(again.trials()) == 4


def test_dropped_asks_say_why(open_study: Open, tmp_path: Path) -> None:
    study = open_study(space=GRID)
    while study.propose():
        pass
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}").trials
    dropped = [trial for trial in trials if "config" not in trial.user_attrs]
    assert {trial.state.name for trial in dropped} == {"FAIL"}
    duplicates = [trial.user_attrs["duplicate_of"] for trial in dropped if "duplicate_of" in trial.user_attrs]
    invalid = [trial.user_attrs["invalid"] for trial in dropped if "invalid" in trial.user_attrs]
    assert len(duplicates) + len(invalid) == len(dropped)
    assert set(duplicates) <= {record.trial_id for record in study.trials()}
    assert all(why.startswith("batch_size must be a whole number of 2 or more, got 1") for why in invalid)


def test_references_are_apart(open_study: Open) -> None:
    study = open_study()
    proposals = study.propose_references()
    assert [one.trial_id for one in proposals] == ["ref-kd-alone", "ref-student-alone"]
    assert [one.config.loss.weight for one in proposals] == [0.0, 0.0]
    assert study.propose_references() == []
    study.report("ref-kd-alone", 1, 0.9)
    study.tell("ref-kd-alone", "complete", 0.9)
    again = open_study()
    assert again.propose_references() == []
    assert [one.trial_id for one in again.unfinished()] == ["ref-student-alone"]
    again.tell("ref-student-alone", "failed", None, "no memory")
    records = again.references()
    assert [(one.point, one.state, one.reference) for one in records] == [
        ("KD alone", "complete", True),
        ("Student  alone!", "failed", True),
    ]
    assert records[0].curve == {1: 0.9}
    assert again.trials() == []
    assert again.best() is None


def test_a_restart_goes_on_with_the_same_trials(open_study: Open) -> None:
    study = open_study()
    ended, running, later = (propose(study) for _ in range(3))
    study.tell(ended.trial_id, "complete", 0.5)
    study.report(running.trial_id, 1, 0.4)
    again = open_study()
    assert again.unfinished() == [running, later]
    again.report(running.trial_id, 1, 0.9)
    again.report(running.trial_id, 2, 0.45)
    again.tell(running.trial_id, "complete", 0.45)
    assert again.unfinished() == [later]
    assert propose(again).trial_id == "00003"
    assert again.unfinished() == [later], "what this process proposed is not unfinished"
    assert [record.curve for record in again.trials()[:2]] == [{}, {1: 0.4, 2: 0.45}]
    assert [record.point for record in again.trials()] == ["version 2", "with KD", None, None]


def test_start_points_wait_over_a_restart(open_study: Open) -> None:
    assert propose(open_study()).point == "version 2"
    assert propose(open_study()).point == "with KD"
    more = replace(MIXED, start={**MIXED.start, "hot": POINT | {"loss.student_temperature": 0.3}})
    study = open_study(space=more)
    assert not SpaceChange(study)
    assert [propose(study).point for _ in range(2)] == ["hot", None]


def test_a_trial_that_a_kill_left_half_proposed_is_proposed_again(open_study: Open) -> None:
    study = open_study()
    study._queue_start()
    study.searched.ask().suggest_categorical("kd_weight", (0.0, 1.0))
    study._references.ask()
    again = open_study()
    assert again.unfinished() == []
    assert len(again.propose_references()) == 2
    assert [propose(again).point for _ in range(3)] == ["with KD", "version 2", None]
    assert len(again.trials()) == 3


def test_schedules_are_shared_or_each_trials_own(open_study: Open) -> None:
    """Own ones depend on the search's schedule seed and the trial's id alone, whatever happens in between."""

    def seeds(file: str, space: Space = MIXED, independent: bool = True) -> list[int]:
        for _ in range(2):  # a restart, and nothing told of the first two
            study = open_study(file, space, independent=independent)
            study.propose_references()
            for _ in range(2):
                one = propose(study)
        assert study.unfinished()[2].config.data.schedule_seed == study.trials()[0].config.data.schedule_seed
        assert one.config == study.trials()[-1].config
        return [record.config.data.schedule_seed for record in [*study.references(), *study.trials()]]

    shared, own = seeds("shared", independent=False), seeds("own")
    assert shared == [0] * 6
    assert len(set(own)) == 6
    assert seeds("again") == own
    other = seeds("other", MIXED.with_values({"data.schedule_seed": 1}))
    assert not set(other) & {*own, 1}


def test_trials_with_their_own_schedules_are_duplicates_all_the_same(open_study: Open) -> None:
    study = open_study(space=GRID, independent=True)
    assert [propose(study).config.data.schedule_seed != 0 for _ in range(2)] == [True, True]
    again = open_study(space=GRID, independent=True)
    for _ in range(2):
        propose(again)
    assert again.propose() is None
    assert len({(one.config.batch_size, one.config.ce_weight) for one in again.trials()}) == 4


def test_bad_beginnings(tmp_path: Path, empty: Path) -> None:
    with pytest.raises(ValueError, match="the sampler must be one of tpe, gp, cmaes, qmc, random, nsga2, got 'best'"):
        Study(f"sqlite:///{empty}", "search", MIXED, "best")
    (tmp_path / "text.db").write_text("this is no database, however long it is" * 100)
    for path in (tmp_path / "text.db", tmp_path / "no" / "folder.db"):
        with pytest.raises(ValueError, match="cannot be opened") as caught:
            Study(f"sqlite:///{path}", "search", MIXED)
        assert "\n" not in str(caught.value)


def test_a_function_that_fails_in_mid_search(open_study: Open) -> None:
    def failing(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
        if trial.number == 40:  # beyond the preflight
            raise KeyError("lost")
        return replace(base, ce_weight=trial.suggest_float("ce_weight", 0.5, 1))

    study = open_study(space=Space(name="failing", function=failing, base=TrialConfig()))
    for _ in range(40):
        study.propose()
    with pytest.raises(ValueError, match=r"space failing: KeyError: 'lost' \(.*test_optuna_searcher.py:\d+\)"):
        study.propose()
    assert len(study.trials()) == 40


def test_optuna_logs_and_warns_for_others_as_before(open_study: Open) -> None:
    before = optuna.logging.get_verbosity()
    run(open_study(sampler="tpe"), 3)
    assert optuna.logging.get_verbosity() == before
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        optuna.samplers.TPESampler(multivariate=True, group=True)


def test_a_copy_has_everything(open_study: Open, tmp_path: Path) -> None:
    study = open_study("original")
    one = propose(study)
    study.tell(one.trial_id, "complete", 0.5)
    (tmp_path / "copied.db").write_text("an older copy")
    (tmp_path / "copied.db").write_bytes(study.storage.content())
    assert sqlite3.connect(tmp_path / "copied.db").execute("pragma integrity_check").fetchone() == ("ok",)
    copied = open_study("copied")
    assert copied.trials() == study.trials()
    assert propose(copied) == propose(study)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_optuna_searcher import MIXED, Study
study = Study("sqlite:///" + {path!r}, "search", MIXED, "tpe", 0)
for number in range(5):
    one = study.propose()
    study.report(one.trial_id, 1, 0.5)
    if number < 3:
        study.tell(one.trial_id, "complete", 0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing(open_study: Open, tmp_path: Path, empty: Path) -> None:
    shutil.copy(empty, tmp_path / "a.db")
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path / "a.db"))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    study = open_study(sampler="tpe")
    assert [record.state for record in study.trials()] == ["complete"] * 3 + ["running"] * 2
    assert [one.trial_id for one in study.unfinished()] == ["00003", "00004"]
    assert [record.curve for record in study.trials()] == [{1: 0.5}] * 5


def test_rungs_and_audits_are_kept(open_study: Open) -> None:
    study = open_study()
    one, other = propose(study).trial_id, propose(study).trial_id
    for epoch, value in ((10, 0.6), (2, 0.5), (2, 0.9)):  # the last is said again after a resume
        study.report_rung(one, epoch, value)
    study.audit(one, 10)
    for now in (study, open_study()):
        first, second = now.trials()
        assert list(first.rungs.items()) == [(2, 0.5), (10, 0.6)]
        assert (first.audited, now.audited(one)) == (10, 10)
        assert (second.rungs, second.audited, now.audited(other)) == ({}, None, None)
    study.tell(one, "complete", 0.7)
    study.report_rung(one, 20, 0.9)
    ended = study.trials()[0]
    assert (ended.state, ended.value, ended.audited, set(ended.rungs)) == ("complete", 0.7, 10, {2, 10})

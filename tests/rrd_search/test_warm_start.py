"""Trials of another search, from its folder and from MLflow, guide a new one's sampler, and are nothing else in it."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from rrd_search.begun import check_begun, open_study
from rrd_search.flags import parser
from rrd_search.marks import HISTORY
from rrd_search.optuna_searcher import Study
from rrd_search.record import Recorder
from rrd_search.recorded_trials import read_trials
from rrd_search.request import Request, read_request
from rrd_search.search_file import SearchFile
from rrd_search.space import Space
from rrd_search.space_change import SpaceChange
from rrd_search.space_check import check
from rrd_search.space_points import point_of
from rrd_search.warm_start import _history, _past

SPACE = """
from dataclasses import replace
from trainables.config import TrialConfig
BASE = TrialConfig(epochs=20)
START = {"usual": {"kd_weight": 0.0, "ce_weight": 1.0}}
def space(trial, base):
    kd_weight = trial.suggest_categorical("kd_weight", (0.0, 1.0))
    return replace(
        base,
        kd_weight=kd_weight,
        kd_temperature=trial.suggest_float("kd_temperature", 1.0, 10.0) if kd_weight else base.kd_temperature,
        ce_weight=trial.suggest_float("ce_weight", 0.1, 1.0),
    )
"""
COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


@pytest.fixture
def storage(tmp_path: Path, empty: Path, empty_store: Path) -> Path:
    """With a search called ``old``, of which MLflow has the same record."""
    storage = tmp_path / "storage"
    for name in ("old", "new"):
        (storage / name).mkdir(parents=True)
        shutil.copy(empty, storage / name / "study.db")
    shutil.copy(empty_store, storage / "mlflow.db")
    (tmp_path / "space.py").write_text(SPACE)
    request = asked(storage, "--name", "old")
    study = open_study(request, request.space, Console(file=io.StringIO()))
    recorder = Recorder(request.folder, request.mlflow_uri, "old")
    run(study, request.space, recorder)
    assert recorder.close(60) is None
    study.close()
    return storage


def asked(storage: Path, *arguments: str) -> Request:
    common = [str(storage.parent / "space.py"), "--storage", str(storage), "--sampler", "tpe"]
    return read_request(parser().parse_args([*common, *arguments]))


def run(study: Study, space: Space, recorder: Recorder) -> None:
    """Four complete trials, a pruned, a failed and a running one; recorded as a driver does."""
    searched = check(space).searched
    params = {name: value for name, value in space.base.flat().items() if name not in searched}
    recorder.start_search(params, {"rrd.independent_schedules": "False"})
    for number in range(7):
        one = study.propose()
        assert one is not None
        recorder.start_trial(one.trial_id, one.params, {"rrd.config_hash": one.config.config_hash})
        for epoch in (1, 2):
            value = 0.5 + number / 100 + epoch / 1000
            study.report(one.trial_id, epoch, value)
            recorder.epoch(one.trial_id, epoch, {"val_accuracy": value})
        state = {4: "pruned", 5: "failed", 6: ""}.get(number, "complete")
        if state:
            study.tell(one.trial_id, state, value if state == "complete" else None)
            final = {"final_val_accuracy": value} if state == "complete" else {}
            recorder.end_trial(one.trial_id, state, final)


def begin(storage: Path, *arguments: str) -> tuple[Study, str]:
    """The search called ``new``, and what was said."""
    request, console = asked(storage, "--name", "new", *arguments), Console(file=io.StringIO(), width=200)
    study = open_study(request, request.space, console)
    return study, console.file.getvalue().strip()  # type: ignore[attr-defined]


def history(study: Study) -> list[tuple[object, ...]]:
    trials = [trial for trial in study.searched.get_trials() if HISTORY in trial.user_attrs]
    return [(trial.state, trial.value, trial.params, dict(trial.intermediate_values)) for trial in trials]


@pytest.mark.parametrize("kind", ["name", "folder", "mlflow"])
def test_history_guides_and_is_nothing_else(storage: Path, kind: str) -> None:
    """The same from all three places, also with another seed."""
    source = {"name": "old", "folder": str(storage / "old"), "mlflow": "mlflow:old"}[kind]
    study, said = begin(storage, "--warm-start", source, "--seed", "5")
    assert said == f"warm start from {source}: 5 of 5 trials guide the sampler"
    old = read_trials(storage / "old")[:5]
    assert history(study) == [
        (PRUNED, one.value, one.params, {2: one.value})
        if one.state == "pruned"
        else (COMPLETE, one.value, one.params, {20: one.value})
        for one in old
    ]
    assert (study.trials(), study.best(), study.ranked(), study.unfinished()) == ([], None, [], [])
    first, second = study.propose(), study.propose()
    assert first is not None
    assert second is not None
    assert (first.trial_id, first.point, first.config.seed) == ("00005", "usual", 5)
    assert first.params == old[0].params, "the same config may run again"
    study.tell(first.trial_id, "complete", 0.1)
    best = study.best()
    assert best is not None
    assert best.trial_id == "00005", "though the history has better ones"
    assert [record.trial_id for record in read_trials(storage / "new")] == ["00005", "00006"]
    assert study.warm_start == source
    study.close()
    again, said = begin(storage, "--warm-start", source, "--seed", "5")
    assert (said, len(history(again)), len(again.trials())) == ("", 5, 2)
    again.close()


def test_what_does_not_belong_to_the_space_is_left_out(storage: Path) -> None:
    old = read_trials(storage / "old")[:5]
    study, said = begin(storage, "--warm-start", "old", "--epochs", "9")
    assert said == "warm start from old: 0 of 5 trials guide the sampler, 5 are left out: 5 with other epochs"
    study.close()
    (storage / "new" / "study.db").unlink()
    without = sum(record.config.kd_weight == 0 for record in old)
    study, said = begin(storage, "--warm-start", "mlflow:old", "--set", "kd_weight=0.0")
    assert 0 < without < 5
    told = f"{5 - without} are left out: {5 - without} with other kd_weight, kd_temperature"
    assert said == f"warm start from mlflow:old: {without} of 5 trials guide the sampler, {told}"
    study.close()


def test_a_kill_in_mid_history_doubles_nothing(storage: Path) -> None:
    study, _ = begin(storage, "--warm-start", "old")
    whole, space = history(study), study.begun_with
    study.close()
    (storage / "new" / "study.db").unlink()
    study, _ = begin(storage)
    study.searched.add_trial(_of(storage, study))
    assert len(history(study)) == 1
    study.close()
    again, _ = begin(storage, "--warm-start", "old")
    assert (history(again), again.begun_with) == (whole, space)
    again.close()


def _of(storage: Path, study: Study) -> optuna.trial.FrozenTrial:
    request = asked(storage, "--name", "new", "--warm-start", "old")
    first = _past("old", request)[0]
    return _history("old", first, point_of(study.space, first.values, first.config_hash, first.seeded))


def test_history_goes_along_with_a_changed_space(storage: Path) -> None:
    study, _ = begin(storage, "--warm-start", "old", "--seed", "5")
    known = history(study)
    one = study.propose()
    study.close()
    (storage.parent / "space.py").write_text(SPACE.replace("0.1, 1.0", "0.05, 1.0"))
    study, said = begin(storage, "--warm-start", "old", "--seed", "5")
    assert (said, SpaceChange(study).lines) == ("", [])
    assert [trial[:3] for trial in history(study)] == [trial[:3] for trial in known]
    assert study.unfinished() == [one]
    assert study.warm_start == "old"
    study.close()


def test_it_is_asked_for_at_the_beginning(storage: Path) -> None:
    facts = {"space": "s", "trials": 9, "sampler": "tpe", "scheduler": "asha", "seed": 0, "data_root": "data"}
    without = SearchFile(teacher={}, **facts)  # type: ignore[arg-type]
    warm = replace(without, warm_start="old")
    for known, arguments in ((without, []), (warm, []), (warm, ["--warm-start", "old"])):
        check_begun(known, asked(storage, "--name", "new", *arguments).options)
    with pytest.raises(ValueError, match="--warm-start must be not given, as the search was begun without"):
        check_begun(without, asked(storage, "--name", "new", "--warm-start", "old").options)
    with pytest.raises(ValueError, match="--warm-start must be old, as the search was begun with"):
        check_begun(warm, asked(storage, "--name", "new", "--warm-start", "mlflow:old").options)

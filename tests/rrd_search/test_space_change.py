"""A search goes on with another space: what is told, which trials stay what they are, and that nothing is lost."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console

from rrd_search.begun import go_on, open_study, send_rest
from rrd_search.flags import parser
from rrd_search.marks import LEFT
from rrd_search.optuna_searcher import Study
from rrd_search.record import Recorder
from rrd_search.recorded_trials import chosen_trial, read_trials
from rrd_search.request import read_request
from rrd_search.results import show_results
from rrd_search.search_file import SearchFile, read_search_file
from rrd_search.space import Space
from rrd_search.space_change import SpaceChange
from rrd_search.study_snapshot import SNAPSHOT, repair
from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig
from trainables.weights import save_weights
from trainables.whole_file import write_whole


def space_of(queues: tuple[int, ...] = (64, 128), low: float = 0.02, **base: Any) -> Space:
    """Choices, a range and a condition."""

    def function(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
        kd_weight = trial.suggest_categorical("kd_weight", (0.0, 1.0))
        return base.with_values(
            {
                "loss.student_temperature": trial.suggest_float("loss.student_temperature", low, 0.3, log=True),
                "loss.queue_size": trial.suggest_categorical("loss.queue_size", queues),
                "kd_weight": kd_weight,
                "kd_temperature": trial.suggest_float("kd_temperature", 1.0, 10.0) if kd_weight else 4.0,
            }
        )

    return Space(
        name="small",
        function=function,
        base=TrialConfig().with_values(base),
        start={"version 2": {"loss.student_temperature": 0.04, "loss.queue_size": 128, "kd_weight": 0.0}},
        references={"student alone": {"loss.weight": 0.0}},
    )


SMALL = space_of()
Open = Callable[..., Study]


@pytest.fixture
def opened(tmp_path: Path, empty: Path) -> Any:
    """``opened(space)`` opens the search's study with a space, anew or again."""
    folder = tmp_path / "search"
    folder.mkdir()
    shutil.copy(empty, folder / "study.db")
    studies = []

    def open_one(space: Space = SMALL, sampler: str = "random", independent: bool = False) -> Study:
        studies.append(Study(f"sqlite:///{folder / 'study.db'}", "search", space, sampler, 0, independent))
        return studies[-1]

    yield open_one
    for study in studies:
        study.close()


def begin(study: Study) -> list[TrialRecord]:
    """A reference, two complete trials of which the second is better, a pruned, a failed and two running ones."""
    assert [one.trial_id for one in study.propose_references()] == ["ref-student-alone"]
    study.tell("ref-student-alone", "complete", 0.4)
    for number in range(6):
        one = study.propose()
        assert one is not None
        study.report(one.trial_id, 1, 0.5 + number / 100)
        study.report_rung(one.trial_id, 1, 0.6)
    study.tell("00000", "complete", 0.7)
    study.tell("00001", "complete", 0.8)
    study.tell("00002", "pruned", None)
    study.tell("00003", "failed", None, "out of memory")
    return study.trials()


def untold(record: TrialRecord) -> TrialRecord:
    return replace(record, earlier=None)


def test_the_difference_is_told_field_by_field(opened: Open) -> None:
    begin(opened())
    assert not SpaceChange(opened())
    change = SpaceChange(opened(space_of(queues=(128, 256), low=0.01, epochs=9)))
    assert change.lines == [
        "epochs: 240 -> 9",
        "loss.queue_size: one of 64, 128 -> one of 128, 256",
        "loss.student_temperature: from 0.02 to 0.3, logarithmic -> from 0.01 to 0.3, logarithmic",
    ]
    assert change.base
    pinned = SpaceChange(opened(SMALL.with_values({"kd_weight": 1.0})))
    assert pinned.lines == ["kd_weight: one of 0.0, 1.0 -> 1.0"]
    assert not SpaceChange(opened()), "to look changes nothing"


def test_points_of_a_wider_space_stay_what_they_are(opened: Open, tmp_path: Path) -> None:
    first = opened()
    before, references = begin(first), first.references()
    wider = space_of(queues=(32, 64, 128, 256), low=0.01)
    taken = opened(wider)
    change = SpaceChange(taken)
    assert (change.base, change.unfit) == (False, {})
    change.take()
    for study in (taken, opened(wider)):
        assert not SpaceChange(study)
        assert (study.trials(), study.references(), study.earlier()) == (before, references, [])
        assert study.ranked() == ["00001", "00000"]
        assert study.propose_references() == []
    assert [one.trial_id for one in study.unfinished()] == ["00004", "00005"]
    assert read_trials(tmp_path / "search") == [*before, *references]
    study.report("00004", 2, 0.9)
    study.tell("00004", "complete", 0.9)
    proposals = [study.propose() for _ in range(16)]
    assert {one.params["loss.queue_size"] for one in proposals if one} == {32, 64, 128, 256}
    assert [record.trial_id for record in study.trials()[:7]] == [f"0000{number}" for number in range(7)]
    assert [record.point for record in study.trials()].count("version 2") == 1
    assert study.ranked()[0] == "00004"


def test_samplers_learn_from_the_points_that_stay(opened: Open) -> None:
    begin(opened())
    wider = space_of(queues=(32, 64, 128, 256))
    study = opened(wider, "tpe")
    SpaceChange(study).take()
    seen = study.searched.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert [trial.value for trial in seen] == [0.7, 0.8]
    assert all(trial.params.keys() == trial.distributions.keys() >= {"loss.queue_size"} for trial in seen)
    assert study.propose() is not None


def test_another_base_leaves_nothing_to_compare(opened: Open, tmp_path: Path) -> None:
    first = opened()
    before, references = begin(first), first.references()
    shorter = space_of(epochs=9)
    study = opened(shorter)
    change = SpaceChange(study)
    assert change.unfit == {f"0000{number}": "other epochs" for number in range(6)} | {
        "ref-student-alone": "another base"
    }
    change.take()
    assert (study.trials(), study.references(), study.best(), study.unfinished()) == ([], [], None, [])
    earlier = study.earlier()
    assert [untold(record) for record in earlier[:4]] == before[:4]
    assert [(record.state, record.reason) for record in earlier[4:6]] == [("failed", LEFT)] * 2
    assert [record.curve for record in earlier[:6]] == [record.curve for record in before]
    assert untold(earlier[6]) == references[0]
    assert read_trials(tmp_path / "search") == earlier
    with pytest.raises(ValueError, match="no trial of the search has run to its end yet"):
        chosen_trial(earlier, None)
    assert chosen_trial(earlier, "00001").value == 0.8

    assert [one.trial_id for one in study.propose_references()] == ["ref-student-alone-2"]
    one = study.propose()
    assert one is not None
    assert (one.trial_id, one.point, one.config.epochs) == ("00006", "version 2", 9)
    study.tell("00006", "complete", 0.3)
    study.tell("ref-student-alone-2", "complete", 0.2)
    again = opened(shorter)
    assert again.best() == again.trials()[0]
    assert [record.trial_id for record in again.references()] == ["ref-student-alone-2"]
    assert again.propose_references() == []
    console = Console(file=io.StringIO(), width=120)
    show_results(console, "search", again, {})
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 trials, 1 complete" in told
    assert "7 of an earlier space, not compared" in told
    assert "winner (trial 00006, version 2)" in told


def test_the_way_back_restores_what_was_complete(opened: Open) -> None:
    before = begin(opened())
    other = opened(space_of(epochs=9))
    SpaceChange(other).take()
    other.propose_references()
    assert other.propose() is not None
    study = opened()
    SpaceChange(study).take()
    assert study.trials()[:4] == before[:4]
    assert [record.state for record in study.trials()[4:]] == ["failed", "failed"]
    assert study.ranked() == ["00001", "00000"]
    assert [record.trial_id for record in study.references()] == ["ref-student-alone"]
    left = {record.trial_id: (record.state, record.reason) for record in study.earlier()}
    assert left == {"00006": ("failed", LEFT), "ref-student-alone-2": ("failed", LEFT)}


def test_only_some_are_points_of_a_narrower_space(opened: Open) -> None:
    configs = {record.trial_id: record.config for record in begin(opened())}
    sizes = {trial_id: config.flat()["loss.queue_size"] for trial_id, config in configs.items()}
    narrower = space_of(queues=(128, 512))
    unfit = {trial_id for trial_id, size in sizes.items() if size == 64}
    assert 0 < len(unfit) < len(sizes)
    study = opened(narrower)
    change = SpaceChange(study)
    why = "loss.queue_size must be one of 128, 512, got 64"
    assert (change.base, change.unfit) == (False, dict.fromkeys(unfit, why))
    change.take()
    assert {record.trial_id: record.config for record in study.trials()} == {
        trial_id: configs[trial_id] for trial_id in sizes if trial_id not in unfit
    }
    assert {record.trial_id for record in study.earlier()} == unfit


def test_trials_of_a_pinned_or_a_freed_value_stay(opened: Open) -> None:
    """The same configs come of the other space, though other fields are suggested."""
    pinned = SMALL.with_values({"kd_weight": 0.0})
    configs = [record.config for record in begin(opened(pinned))]
    freed = opened(replace(SMALL, base=pinned.base))
    change = SpaceChange(freed)
    assert (change.lines, change.unfit) == (
        ["kd_temperature: 4.0 -> from 1 to 10", "kd_weight: 0.0 -> one of 0.0, 1.0"],
        {},
    )
    change.take()
    assert [record.config for record in freed.trials()] == configs
    assert all(record.params["kd_weight"] == 0.0 for record in freed.trials())


def test_own_schedules_stay_with_their_trials(opened: Open) -> None:
    before = begin(opened(independent=True))
    wider = opened(space_of(queues=(64, 128, 256)), independent=True)
    change = SpaceChange(wider)
    assert change.unfit == {}
    change.take()
    assert wider.trials() == before
    assert len({record.config.data.schedule_seed for record in before}) == 6


def test_a_change_that_a_kill_cut_off_did_not_happen(opened: Open, tmp_path: Path) -> None:
    study = opened()
    before = begin(study)
    storage = study.storage
    optuna.create_study(storage=storage.optuna, study_name="search@2").add_trial(optuna.create_trial(value=1.0))
    assert opened().trials() == before
    assert read_trials(tmp_path / "search")[:6] == before
    wider = opened(space_of(queues=(64, 128, 256)))
    content = storage.content()
    SpaceChange(wider).take()
    assert wider.trials() == before
    wider.storage.close()
    write_whole(tmp_path / "search" / SNAPSHOT, content, hashlib.sha256(content).digest())
    said: list[str] = []
    repair(tmp_path / "search" / "study.db", tmp_path / "search" / SNAPSHOT, said.append)
    assert said == [], "a snapshot of before knows nothing that the study does not"


def test_what_is_asked_for_and_what_is_kept(tmp_path: Path, opened: Open) -> None:
    """The command's side of it: a file for the space, first as it was, then longer epochs, then other choices."""
    console = Console(file=io.StringIO(), width=200)

    def go(text: str, *more: str) -> tuple[Study | None, Space, str]:
        (tmp_path / "space.py").write_text(text)
        arguments = [str(tmp_path / "space.py"), "--name", "search", "--sampler", "random", *more]
        arguments += ["--storage", str(tmp_path)]
        request = read_request(parser().parse_args(arguments))
        known = read_search_file(request.folder)
        console.file = io.StringIO()
        if known is None:
            study: Study | None = open_study(request, request.space, console)
            facts = {"trials": 9, "sampler": "random", "scheduler": "none", "seed": 0, "data_root": "data"}
            SearchFile(space="older.py", teacher={}, **facts).write(request.folder)  # type: ignore[arg-type]
        else:
            request, space, study = go_on(request, known, console)
            return study, space, console.file.getvalue()
        return study, request.space, ""

    study, _, _ = go(TEXT)
    assert study is not None
    one = study.propose()
    assert one is not None
    study.tell(one.trial_id, "complete", 0.5)
    running = study.propose()
    assert running is not None
    (tmp_path / "search" / "trials" / running.trial_id).mkdir(parents=True)
    study.close()
    same, _, told = go(TEXT)
    assert (told, read_search_file(tmp_path / "search").space) == ("", str(tmp_path / "space.py"))  # type: ignore[union-attr]
    wider, _, told = go(TEXT.replace("0.5", "0.4"))
    assert told.splitlines() == [
        "search was begun with another space:",
        "  ce_weight: from 0.5 to 1 -> from 0.4 to 1",
        "all 2 trials and references are points of this one too",
    ]
    with pytest.raises(ValueError, match=r"has changed, 2 of 2 trials .* \(00000: other epochs\); --accept-changes"):
        go(TEXT.replace("20", "9"))
    longer, _, told = go(TEXT.replace("20", "9"), "--accept-changes")
    assert "epochs: 20 -> 9" in told
    assert longer is not None
    assert [record.trial_id for record in longer.earlier()] == ["00000", "00001"]
    assert not (tmp_path / "search" / "trials" / "00001").exists(), "its checkpoint is of no use any more"
    again, _, told = go(TEXT.replace("20", "9"))
    assert told == ""
    for teacher in ("resnet14", "resnet32"):  # which is not there yet, so the study waits for it
        study, space, told = go(TEXT.replace("20", "9").replace("resnet8x4", teacher), "--accept-changes")
        assert study is None
        assert space.base.teacher.weights is None
    for study in (same, wider, longer, again):
        assert study is not None
        study.close()


def test_mlflow_hears_of_the_trials_that_were_left(opened: Open, tmp_path: Path) -> None:
    begin(opened())
    study = opened(space_of(epochs=9))
    SpaceChange(study).take()
    recorder = Recorder(tmp_path / "search", f"sqlite:///{tmp_path}/none/at/all.db", "search")
    request: Any = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "close", lambda seconds: "MLflow is not there")
        patch.setattr(recorder, "_wake", lambda: None)
        for _ in range(2):
            send_rest(recorder, request, study, Console(file=io.StringIO()))
    events = [json.loads(line) for line in (tmp_path / "search" / "record.jsonl").read_text().splitlines()]
    assert [(one["trial"], one["state"], one["tags"]["rrd.failure"]) for one in events] == [
        ("00004", "failed", LEFT),
        ("00005", "failed", LEFT),
    ]


def test_a_given_teacher_is_measured_again_on_other_images(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "space.py").write_text(TEXT)
    given = {"weights": "abc", "trained_here": False, "val_accuracy": 0.5}
    facts = {"trials": 9, "sampler": "random", "scheduler": "none", "seed": 0, "data_root": "data"}
    known = SearchFile(space="space.py", teacher=given, **facts)  # type: ignore[arg-type]
    stored = tmp_path / "teachers" / "resnet8x4-abc.safetensors"
    save_weights({"any": torch.zeros(1)}, stored)

    def go(*more: str) -> tuple[Path | None, Study | None]:
        arguments = [str(tmp_path / "space.py"), "--name", "search", "--storage", str(tmp_path), *more]
        request = read_request(parser().parse_args(arguments))
        opened(request.space.with_values({"teacher.weights": "abc"}))
        request, space, study = go_on(request, known, Console(file=io.StringIO()))
        assert space.base.teacher.weights == (None if study is None else "abc")
        if study is not None:
            study.close()
        return request.options.teacher_checkpoint, study

    checkpoint, study = go()
    assert (checkpoint, study is None) == (None, False)
    assert go("--set", "data.held_out=0.2", "--accept-changes") == (stored, None)
    assert go("--teacher", "resnet8", "--accept-changes") == (None, None), "one is trained"


TEXT = """
from dataclasses import replace
from trainables.config import TeacherConfig, TrialConfig
BASE = TrialConfig(epochs=20, teacher=TeacherConfig(architecture="resnet8x4"))
def space(trial, base):
    return replace(base, ce_weight=trial.suggest_float("ce_weight", 0.5, 1))
"""

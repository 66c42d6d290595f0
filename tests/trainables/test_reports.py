"""When a one-worker trial reports to Tune: at rungs, at its end, and else not more often than it is asked to."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.checkpoint import FILES as CHECKPOINT_FILES
from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.result import FILES, earlier_report
from trainables.trial import Inline, Leaving, Trial


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("storage")


def plan(storage: Path, folder: Path, **more: Any) -> dict[str, Any]:
    data = DataConfig(name="digits", held_out=0.9)
    config = TrialConfig(data=data, teacher=TeacherConfig(), loss=RRD.Config(weight=0), epochs=4)
    places = {
        "storage": str(storage),
        "data_root": str(storage),
        "table_gb": 1.0,
        "remote": None,
        "folder": str(folder),
    }
    plain = {"trial_id": "00000", "config": config.to_dict(), "resources": {"workers": 1, "cpus_per_worker": 1}}
    return (
        plain
        | places
        | {"rungs": [], "report_seconds": 1000.0, "hang_seconds": 60.0, "checkpoint_bytes": 10**9, "interrupts": None}
        | more
    )


def epochs(report: dict[str, Any]) -> list[int]:
    return [metrics["epoch"] for metrics in report["curve"]]


def test_what_was_finished_before_it_was_in_the_store_gets_there(storage: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    folder = storage / "search"
    plans = plan(storage, folder, remote=there.as_uri(), report_seconds=0.0)
    trial = Trial(plans)
    while not (report := trial.step())["done"]:
        pass
    files = {file.name for file in (there / "search/trials/00000").iterdir()}
    assert files == set(FILES)
    (there / "search/trials/00000/result.json").unlink()  # as if the process had been killed while it copied
    (there / "search/trials/00000/student.safetensors").unlink()
    (folder / "trials/00000/checkpoint-000009.pt").write_bytes(b"of before")
    trial = Trial(plans)
    again = trial.step()
    assert again["done"]
    assert again["summary"] == report["summary"]
    assert {file.name for file in (there / "search/trials/00000").iterdir()} == files
    assert not list((folder / "trials/00000").glob("checkpoint-*"))
    assert trial.reset_config({**plans, "trial_id": "00001"})
    here = {file.name for file in (folder / "trials/00000").iterdir()}
    assert here & files == {"config.yaml", "result.json"}, "its students lie in the store"


@pytest.mark.parametrize(
    ("rungs", "seconds", "expected"),
    [([], 1000.0, [[1, 2, 3, 4]]), ([1, 3], 1000.0, [[1], [2, 3], [4]]), ([], 0.0, [[1], [2], [3], [4]])],
    ids=["at the end", "at rungs", "every epoch"],
)
def test_reports(rungs: list[int], seconds: float, expected: list[list[int]], storage: Path, tmp_path: Path) -> None:
    trial = Trial(plan(storage, tmp_path, rungs=rungs, report_seconds=seconds))
    reports = [trial.step()]
    while not reports[-1]["done"]:
        reports.append(trial.step())
    assert [epochs(report) for report in reports] == expected
    assert [report["epoch"] for report in reports] == [told[-1] for told in expected]
    compared = [metrics["epoch"] for metrics in trial.running.worker.curve if "averaged_val_accuracy" in metrics]
    assert compared == rungs
    assert reports[-1]["summary"]["epochs_run"] == 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no such thing"), "cannot be trained"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("a bug"), None),
    ],
    ids=["value", "CUDA memory", "CPU memory", "other"],
)
def test_what_was_trained_before_an_error_is_reported_first(
    error: Exception, kind: str | None, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Inline.next_epoch

    def fails_in_the_third(self: Inline) -> Any:
        if self.worker.training.epoch == 2:
            raise error
        return train(self)

    monkeypatch.setattr(Inline, "next_epoch", fails_in_the_third)
    trial = Trial(plan(storage, tmp_path))
    assert epochs(trial.step()) == [1, 2]
    if kind is None:
        with pytest.raises(RuntimeError, match="a bug"):
            trial.step()
    else:
        report = trial.step()
        assert (report["done"], report["failed"], report["kind"]) == (True, str(error), kind)
    monkeypatch.undo()
    trial.reset_config(plan(storage, tmp_path / "next"))
    assert epochs(trial.step()) == [1, 2, 3, 4]


def test_sigterm_leaves_a_checkpoint(storage: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trial = Trial(plan(storage, tmp_path, report_seconds=0.0))
    assert epochs(trial.step()) == [1]
    for file in (tmp_path / "trials" / "00000").glob(CHECKPOINT_FILES):
        file.unlink()
    os.kill(os.getpid(), signal.SIGTERM)
    report = trial.step()
    assert (report["done"], report["interrupted"]) == (True, True)
    with pytest.raises(Leaving):
        trial.reset_config(plan(storage, tmp_path / "next"))
    again = Trial(plan(storage, tmp_path))
    assert epochs(again.step()) == [1, 2, 3, 4]
    signal.signal(signal.SIGTERM, before)


def test_a_rank_whose_machine_alone_has_the_result_gives_it_to_the_others(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    trial = Trial(plan(storage, storage / "ranks", remote=there.as_uri(), report_seconds=0.0))
    while not trial.step()["done"]:
        pass
    task = trial._task()
    for file in (there / "ranks/trials/00000").iterdir():  # as if the store had been away at the end
        file.unlink()
    monkeypatch.setattr("trainables.result.own_rank", lambda: 1)
    assert earlier_report(task.folder, task.config, task.places) is not None
    other = replace(task.places, storage=tmp_path / "other")
    assert earlier_report(tmp_path / "other/ranks/trials/00000", task.config, other) is not None
    assert {file.name for file in (there / "ranks/trials/00000").iterdir()} == set(FILES)


def test_a_result_whose_students_are_nowhere_runs_again(storage: Path, tmp_path: Path) -> None:
    """A node keeps the result of a trial that is over; somebody has deleted the search in the store since."""
    there = tmp_path / "there"
    there.mkdir()
    plans = plan(storage, storage / "deleted", remote=there.as_uri())
    trial = Trial(plans)
    while not trial.step()["done"]:
        pass
    trial.reset_config({**plans, "trial_id": "00001"})
    for file in (there / "deleted/trials/00000").iterdir():
        file.unlink()
    again = Trial(plans)
    assert epochs(again.step()) == [1, 2, 3, 4]
    assert {file.name for file in (there / "deleted/trials/00000").iterdir()} == set(FILES)

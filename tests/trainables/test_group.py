"""A trial on two workers of a real Ray: it ends, it stops in the middle, and nothing of it is left."""

from dataclasses import replace
from pathlib import Path

import pytest
import ray
from waiting import soon

from trainables.checkpoint import FILES
from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.group import Group, _forget_refusal, _refusal, _refuse
from trainables.interrupts import Interrupts
from trainables.places import Places
from trainables.refusal import OUT_OF_MEMORY, REFUSED
from trainables.resources import Resources
from trainables.result import FILES as RESULT_FILES
from trainables.result import finished_report
from trainables.trial import run
from trainables.worker import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]
TWO = Resources(workers=2)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    config = TrialConfig(
        data=DataConfig(name="digits", held_out=0.25),
        teacher=TeacherConfig(architecture="resnet8"),
        loss=RRD.Config(weight=0),
        epochs=2,
    )
    return Task(config=config, places=Places(storage=tmp_path, data_root=tmp_path), folder=tmp_path / "trial")


def nothing_is_left() -> bool:
    groups = [group["state"] for group in ray.util.placement_group_table().values()]
    return all(state == "REMOVED" for state in groups) and ray.available_resources().get("CPU") == 2


def test_it_runs_to_its_end_and_leaves_a_student(task: Task) -> None:
    reports = list(run(replace(task, rungs=(1,)), TWO))
    assert [metrics["epoch"] for report in reports for metrics in report["curve"]] == [1, 2]
    finished = finished_report(task.folder)
    assert finished is not None
    assert ["averaged_val_accuracy" in metrics for metrics in finished["curve"]] == [True, False]
    assert (task.folder / "student.safetensors").is_file()
    assert soon(nothing_is_left)


def test_with_a_store_its_nodes_keep_no_students(task: Task, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    remote = replace(task, places=replace(task.places, remote=(tmp_path / "there").as_uri()))
    assert len(list(run(remote, TWO))) == 2
    there = {file.name for file in (tmp_path / "there" / "trial").iterdir() if file.is_file()}
    assert there == set(RESULT_FILES)
    left = {"config.yaml", "result.json"}
    assert soon(lambda: {file.name for file in task.folder.iterdir() if file.is_file()} == left)


def test_stopped_between_two_epochs_it_frees_everything(task: Task) -> None:
    group = Group(replace(task, config=replace(task.config, epochs=1000)), TWO)
    report = group.next_epoch()
    assert report is not None
    group.stop()
    assert soon(nothing_is_left)
    assert list(task.folder.glob(FILES))
    assert finished_report(task.folder) is None


def test_what_the_workers_of_a_dead_trial_held_is_free_again(task: Task) -> None:
    interrupts = Interrupts()
    held = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(held.ready())
    interrupts.hold("00000", held.id.hex())
    assert not nothing_is_left()
    for trial_id in ("00000", "00000", "00001"):
        interrupts.free(trial_id)
    assert soon(nothing_is_left)


def test_a_refusal_is_known_on_all_machines_until_it_is_forgotten(task: Task, tmp_path: Path) -> None:
    remote = f"file://{tmp_path / 'there'}"
    here, there = (
        replace(
            task, places=replace(task.places, storage=tmp_path / name, remote=remote), folder=tmp_path / name / "s/t"
        )
        for name in ("here", "there")
    )
    assert _refusal(here) is _refusal(there) is None
    for kind, error in ((REFUSED, ValueError), (OUT_OF_MEMORY, MemoryError)):
        _refuse(there, kind, "why")
        told = _refusal(here)
        assert (type(told), str(told)) == (error, "why")
    _forget_refusal(here)
    assert _refusal(there) is None, "what lies on that machine alone is of an earlier try"

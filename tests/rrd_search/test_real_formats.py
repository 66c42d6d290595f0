"""Two-epoch searches on tiny data sets in the formats of the real ones, and what a search leaves of itself in Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch
from mlflow import MlflowClient
from real_formats import write_cifar10, write_cifar100, write_folder, write_stl10, write_tiny_imagenet
from waiting import soon

from rrd_search.cluster import Cluster
from rrd_search.recorded_trials import read_trials
from rrd_search.search_file import read_search_file
from rrd_search.tune import main
from trainables.models import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
WRITERS: dict[str, Callable[[Path], object]] = {
    "cifar100": write_cifar100,
    "cifar10": write_cifar10,
    "stl10": write_stl10,
    "tiny_imagenet": write_tiny_imagenet,
    "folder": lambda root: write_folder(root / "pictures", 20),
}
SMALL = ["--epochs", "2", "--teacher", "resnet8", "--set", "teacher.epochs=1", "--set", "data.image_size=16"]
SMALL += ["--set", "batch_size=16", "--set", "loss.queue_size=64", "--set", "data.held_out=0.2"]


@pytest.fixture(scope="module", autouse=True)
def searches_share(one_ray: None) -> Iterator[None]:
    """Searches of this module share a Ray, which saves its start and shows what they leave in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "__enter__", lambda self: self)
        patch.setattr(Cluster, "join", lambda self: None)
        patch.setattr(Cluster, "__exit__", lambda self, *error: None)
        yield


def nothing_is_left() -> bool:
    groups = {group["state"] for group in ray.util.placement_group_table().values()}
    actors = {actor["State"] for actor in ray._private.state.actors().values()}
    return groups <= {"REMOVED"} and actors <= {"DEAD"} and ray.available_resources().get("CPU") == 2


@pytest.mark.parametrize("name", WRITERS)
def test_a_search_on_each_format(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    data = f"folder:{tmp_path / 'data' / 'pictures'}" if name == "folder" else name
    arguments = ["quickstart", "--name", "tiny", "--data", data, "--data-root", str(tmp_path / "data"), *SMALL]
    assert main([*arguments, "--storage", str(tmp_path), "--trials", "2", "--scheduler", "none"]) == 0
    trials = read_trials(tmp_path / "tiny")
    assert [trial.state for trial in trials if not trial.reference] == ["complete", "complete"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], "tags.`rrd.state` = 'complete'")
    for run in (run for run in children if "mlflow.parentRunId" in run.data.tags):
        curve = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert [metric.step for metric in curve] == [1, 2]


def test_early_stopping_leaves_no_placement_group_actor_or_worker(tmp_path: Path) -> None:
    arguments = ["quickstart", "--name", "stops", *SMALL, "--storage", str(tmp_path), "--epochs", "4", "--trials", "8"]
    assert main([*arguments, "--seed", "3"]) == 0
    states = [trial.state for trial in read_trials(tmp_path / "stops") if not trial.reference]
    assert len(states) == 8
    assert "pruned" in states
    assert soon(nothing_is_left)


def test_hours_end_a_search_that_goes_on_later(tmp_path: Path) -> None:
    arguments = ["quickstart", "--name", "short", *SMALL, "--storage", str(tmp_path), "--trials", "4", "--epochs", "3"]
    assert main([*arguments, "--hours", "0.004"]) == 0  # 14 seconds, teacher included
    before = read_trials(tmp_path / "short")
    assert sum(trial.state in ("complete", "pruned") for trial in before if not trial.reference) < 4
    assert not [trial for trial in before if trial.state == "failed"]
    assert main(arguments) == 0
    after = {trial.trial_id: trial for trial in read_trials(tmp_path / "short")}
    assert sum(not trial.reference for trial in after.values()) == 4
    assert {trial.state for trial in after.values()} <= {"complete", "pruned"}
    for trial in before:
        assert after[trial.trial_id].config == trial.config
    assert soon(nothing_is_left)


def test_a_teacher_from_a_checkpoint_stays_when_the_search_is_extended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"model": MODELS["resnet8"](num_classes=10).state_dict()}, tmp_path / "given.pth")
    arguments = ["quickstart", "--name", "given", *SMALL, "--storage", str(tmp_path), "--epochs", "1"]
    assert main([*arguments, "--trials", "1", "--teacher-checkpoint", str(tmp_path / "given.pth")]) == 0
    begun = read_search_file(tmp_path / "given")
    assert begun is not None
    assert not begun.teacher["trained_here"]
    assert main([*arguments, "--trials", "2"]) == 0
    extended = read_search_file(tmp_path / "given")
    assert extended is not None
    assert extended.teacher == begun.teacher
    trials = [trial for trial in read_trials(tmp_path / "given") if not trial.reference]
    assert [trial.config.teacher.weights for trial in trials] == [begun.teacher["weights"]] * 2
    assert len(list((tmp_path / "teachers").glob("*.safetensors"))) == 1

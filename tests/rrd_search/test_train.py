"""Final training on digits: all training images, the test set once a seed, nothing done twice, all of it recorded."""

import io
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console
from safetensors.torch import load_file
from tiny_search import BASE

import rrd_search.final_results
import rrd_search.final_training
from rrd_search.epoch_display import EpochDisplay
from rrd_search.final_request import parser, read_final_request
from rrd_search.progress import duration
from rrd_search.search_file import SearchFile
from rrd_search.tracking import quiet_client
from rrd_search.train import main
from trainables.config import TrialConfig
from trainables.data.parts import load_test
from trainables.models import MODELS
from trainables.weights import load_network, save_weights
from trainables.worker import Report, Task

ALONE = BASE.with_values({"loss.weight": 0.0, "epochs": 1})


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder by itself: what it was exported from is elsewhere."""
    return Path(shutil.copytree(exported, tmp_path_factory.mktemp("shipped") / "best"))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage in which the folder was trained with two seeds."""
    storage = tmp_path_factory.mktemp("final")
    assert main(command(folder, storage, 2)) == 0
    return storage


def command(source: Path, storage: Path, seeds: int, *more: str) -> list[str]:
    return [str(source), "--storage", str(storage), "--seeds", str(seeds), "--cpus-per-worker", "1", *more]


def final_folder(storage: Path) -> Path:
    (only,) = (storage / "final").iterdir()
    return only


def test_each_seed_trains_on_all_images_and_is_tested_once(folder: Path, trained: Path) -> None:
    exported = TrialConfig.from_yaml(folder / "config.yaml")
    final = final_folder(trained)
    assert final.name.startswith("tiny-")
    configs = [TrialConfig.from_yaml(final / f"seed-{number}" / "config.yaml") for number in range(2)]
    for number, config in enumerate(configs):
        assert config.data.held_out == 0
        assert (config.seed, config.data.schedule_seed) == (number, number)
        same = config.with_values({"seed": 0, "data.schedule_seed": 0, "data.held_out": exported.data.held_out})
        assert same == exported
    part = load_test(exported.data, trained, trained)
    accuracies = []
    for number in range(2):
        seed_folder = final / f"seed-{number}"
        student = load_network(seed_folder / "student.safetensors", exported.student, 10).eval()
        pixels = torch.from_numpy(part.images.copy()) / 255  # [N, 3, H, W]
        mean, std = (torch.tensor(three).view(1, 3, 1, 1) for three in (part.mean, part.std))
        with torch.inference_mode():
            right = student((pixels - mean) / std).logits.argmax(1) == torch.from_numpy(part.labels.copy())
        tested = json.loads((seed_folder / "test.json").read_text())
        assert tested["accuracy"] == pytest.approx(right.float().mean().item(), abs=1 / 597 + 1e-6)
        assert tested["images"] == 597
        curve = json.loads((seed_folder / "result.json").read_text())["curve"]
        assert [metrics["epoch"] for metrics in curve] == [1, 2]
        assert "val_accuracy" not in curve[0]
        accuracies.append(tested["accuracy"])
    recorded = json.loads((final / "recorded.json").read_text())
    assert recorded["test_accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert recorded["test_accuracy_spread"] == pytest.approx(statistics.stdev(accuracies))


def test_the_record_has_a_parent_and_a_child_a_seed(trained: Path) -> None:
    client: MlflowClient = quiet_client(f"sqlite:///{trained / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"{final_folder(trained).name}-final")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = sorted((run for run in runs if run is not parent), key=lambda run: run.data.tags["rrd.trial_id"])
    assert [child.data.tags["rrd.trial_id"] for child in children] == ["seed-0", "seed-1"]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    accuracies = []
    for number, child in enumerate(children):
        tested = json.loads((final_folder(trained) / f"seed-{number}" / "test.json").read_text())
        assert child.data.metrics["test_accuracy"] == tested["accuracy"]
        assert child.data.params == {"seed": str(number), "data.schedule_seed": str(number)}
        history = client.get_metric_history(child.info.run_id, "train_loss")
        assert [point.step for point in history] == [1, 2]
        assert "ended_at" not in child.data.metrics
        assert child.info.status == "FINISHED"
        accuracies.append(tested["accuracy"])
    assert parent.data.metrics["test_accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert parent.data.metrics["test_accuracy_spread"] == pytest.approx(statistics.stdev(accuracies))
    assert parent.data.params["data.held_out"] == "0.0"


def test_what_is_done_is_not_done_again_and_more_seeds_add_to_it(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Path(shutil.copytree(trained, tmp_path / "storage"))
    final = final_folder(storage)
    tested, trained_tasks = [], []
    measure, run = rrd_search.final_results.measure, rrd_search.final_training.run

    def counted_measure(folder: Path, *rest: object) -> object:
        tested.append(folder.name)
        return measure(folder, *rest)  # type: ignore[arg-type]

    def counted_run(task: Task, *rest: object) -> Iterator[Report]:
        trained_tasks.append(task.folder.name)
        return run(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rrd_search.final_training, "measure", counted_measure)
    monkeypatch.setattr(rrd_search.final_training, "run", counted_run)
    before = {path: path.read_bytes() for path in final.rglob("*") if path.is_file() and "driver" not in path.name}
    assert main(command(folder, storage, 2, "--mlflow-uri", f"sqlite:///{trained / 'mlflow.db'}")) == 0
    assert (trained_tasks, tested) == ([], [])
    assert {path: path.read_bytes() for path in before} == before
    said = capsys.readouterr().out
    assert "mean" in said
    assert "spread" in said
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert main(command(folder, storage, 2, "--mlflow-uri", other)) == 0
    assert (trained_tasks, tested) == ([], [])
    experiment = quiet_client(other).get_experiment_by_name(f"{final.name}-final")
    assert experiment is not None, "another store is told of what was done before"
    assert len(quiet_client(other).search_runs([experiment.experiment_id])) == 3
    assert main(command(folder, storage, 3)) == 0
    assert (trained_tasks, tested) == (["seed-2"], ["seed-2"])
    assert json.loads((final / "recorded.json").read_text())["seeds"] == 3


def test_a_broken_final_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "alone.yaml"
    source.write_text(ALONE.to_yaml())
    run, trained = rrd_search.final_training.run, []

    def broken(task: Task, *rest: object) -> Iterator[Report]:
        if task.folder.name == "seed-1" and "seed-1" not in trained:
            trained.append("seed-1")
            raise KeyboardInterrupt
        trained.append(task.folder.name)
        return run(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rrd_search.final_training, "run", broken)
    storage = tmp_path / "storage"
    with pytest.raises(KeyboardInterrupt):
        main(command(source, storage, 2))
    final = final_folder(storage)
    assert final.name.startswith("alone-")
    assert not list(final.glob("*/test.json")), "the test set stays closed until all seeds are trained"
    first = load_file(final / "seed-0" / "student.safetensors")
    assert main(command(source, storage, 2)) == 0
    assert trained == ["seed-0", "seed-1", "seed-1"]
    again = load_file(final / "seed-0" / "student.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not list((storage / "teachers").glob("*.safetensors")) if (storage / "teachers").exists() else True
    assert "seed 1:" in capsys.readouterr().out


def test_a_teacher_that_is_not_there_yet_is_trained_on_all_images(tmp_path: Path) -> None:
    source, storage = tmp_path / "kd.yaml", tmp_path / "storage"
    source.write_text(ALONE.with_values({"kd_weight": 1.0}).to_yaml())
    assert main(command(source, storage, 1)) == 0
    config = TrialConfig.from_yaml(final_folder(storage) / "config.yaml")
    (teacher,) = (storage / "teachers").glob("*.safetensors")
    assert teacher.stem == f"resnet8-{config.teacher.weights}"
    (recipe,) = (yaml.safe_load(path.read_text())["recipe"] for path in (storage / "teachers").glob("*.yaml"))
    assert recipe["data"]["held_out"] == 0


@pytest.mark.slow
def test_two_workers_train_through_ray(folder: Path, tmp_path: Path) -> None:
    source, storage = tmp_path / "config.yaml", tmp_path / "storage"
    source.write_text(TrialConfig.from_yaml(folder / "config.yaml").with_values({"epochs": 1}).to_yaml())
    teacher = ("--teacher-checkpoint", str(folder / "teacher.safetensors"), "--name", "two")
    assert main(command(source, storage, 1, "--workers", "2", *teacher)) == 0
    final = final_folder(storage)
    assert final.name.startswith("two-")
    assert json.loads((final / "seed-0" / "test.json").read_text())["images"] == 597


@pytest.fixture(scope="module")
def sources(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders, configs and checkpoints that are wrong."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "empty").mkdir()
    (place / "broken.yaml").write_text("student: [resnet8\n")
    (place / "unknown.yaml").write_text("student: resnet9\n")
    (place / "field.yaml").write_text("students: resnet8\n")
    (place / "nothing.yaml").write_text("")
    (place / "alone.yaml").write_text(ALONE.to_yaml())
    gone = BASE.with_values({"teacher.weights": "0123456789abcdef"})
    (place / "gone.yaml").write_text(gone.to_yaml())
    (place / "large.yaml").write_text(ALONE.with_values({"batch_size": 1300}).to_yaml())
    (place / "wild.yaml").write_text(ALONE.with_values({"optimizer.learning_rate": 1e30}).to_yaml())
    (place / "file").write_text("")
    save_weights(MODELS["resnet8"](num_classes=10).state_dict(), place / "other.safetensors")
    save_weights(MODELS["resnet14"](num_classes=10).state_dict(), place / "resnet14.safetensors")
    shutil.copytree(folder, place / "best")
    return place


@pytest.mark.parametrize(
    ("source", "more", "told"),
    [
        ("nowhere", [], r"nowhere: no such folder or config; python -m rrd_search\.export makes a folder"),
        ("empty", [], r"empty holds no config\.yaml: it is no exported folder"),
        ("broken.yaml", [], r"broken\.yaml: while parsing"),
        ("unknown.yaml", [], r"unknown\.yaml: student must be one of resnet8"),
        ("field.yaml", [], r"field\.yaml: no field 'students'"),
        ("nothing.yaml", [], r"nothing\.yaml: a trial config must be a mapping"),
        ("gone.yaml", [], "no such teacher; give its checkpoint with --teacher-checkpoint"),
        ("large.yaml", [], "batch_size must be at most the 1200 training images"),
        ("wild.yaml", [], "seed 0: the training loss diverged in epoch 1"),
        ("best", ["--teacher-checkpoint", "other.safetensors"], "its weights are .*, teacher.weights asks for"),
        (
            "best",
            ["--teacher-checkpoint", "resnet14.safetensors"],
            "expected a resnet8 with 10 classes, found a resnet14",
        ),
        ("alone.yaml", ["--teacher-checkpoint", "other.safetensors"], "--teacher-checkpoint: .* uses no teacher"),
        ("alone.yaml", ["--seeds", "0"], "--seeds: must be a whole number of 1 or more"),
        ("alone.yaml", ["--workers", "3"], "--workers must be a divisor of batch_size, 32, got 3"),
        ("alone.yaml", ["--workers", "2", "--gpus-per-worker", "0.5"], "--gpus-per-worker must be 1 or more"),
        ("alone.yaml", ["--cpus-per-worker", "4096"], "--cpus-per-worker 4096: .* this machine has at most"),
        ("alone.yaml", ["--name", "a/b"], "--name must be letters"),
        ("alone.yaml", ["--mlflow-uri", "mlruns"], "is a folder, which MLflow 3 no longer records in"),
        ("alone.yaml", ["--storage", "file"], "--storage .*file cannot be written"),
    ],
)
def test_what_cannot_be_trained_is_told(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, more: list[str], told: str
) -> None:
    monkeypatch.chdir(sources)
    with pytest.raises(ValueError, match=told) as raised:
        main(command(Path(source), tmp_path, 1, *more))
    assert "\n" not in " ".join(str(raised.value).split())


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "rrd_search.train", str(tmp_path / "none"), "--storage", str(tmp_path / "runs")]
    ended = subprocess.run(arguments, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path / 'none'}: no such folder or config")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_data_of_the_exported_search_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, storage, data = tmp_path / "best", tmp_path / "storage", tmp_path / "own"
    source.mkdir()
    (source / "metrics.json").write_text('{"search": "older"}')
    (source / "config.yaml").write_text(ALONE.with_values({"data.name": f"folder:{data}"}).to_yaml())
    facts = {"space": "rrd", "trials": 1, "sampler": "tpe", "scheduler": "none", "seed": 0, "teacher": {}}
    SearchFile(**facts, data_root=str(data)).write(storage / "older")  # type: ignore[arg-type]
    data.mkdir()
    (source / "provenance.yaml").write_text("files: {}")
    request = read_final_request(parser().parse_args([str(source), "--storage", str(storage)]))
    assert request.places.data_root == data
    given = parser().parse_args([str(source), "--storage", str(storage), "--data-root", "there"])
    assert read_final_request(given).places.data_root == tmp_path / "there"
    data.rmdir()
    assert read_final_request(parser().parse_args([str(source), "--storage", str(storage)])).places.data_root == (
        tmp_path / "data"
    )


def test_test_images_that_are_not_there_are_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ValueError("tiny_imagenet: the test part is not there")

    monkeypatch.setattr(rrd_search.final_training, "load_test", missing)
    monkeypatch.setattr(rrd_search.final_training, "run", None)
    source = tmp_path / "alone.yaml"
    source.write_text(ALONE.to_yaml())
    with pytest.raises(ValueError, match="the test part is not there"):
        main(command(source, tmp_path / "storage", 1))


def test_the_time_left_counts_what_this_run_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("rrd_search.epoch_display.time.monotonic", lambda: now[0])
    display = EpochDisplay(Console(file=io.StringIO()), "final training", 50)
    for done in (10, 20, 30):
        display.epoch(done, "", new=False)
    assert display._left() == ""
    now[0] = 60.0
    display.epoch(31, "")
    assert display._left() == f", about {duration(19 * 60)} left"
    now[0] = 120.0
    display.epoch(45, "")  # the next seed goes on from its checkpoint
    assert display._left() == f", about {duration(5 * 60)} left"

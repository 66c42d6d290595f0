"""A trial's process: killed and resumed it ends with the weights of an unbroken one; what it leaves in its folder."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainables.checkpoint import FILES, Checkpoints
from trainables.config import RRD, DataConfig, OptimizerConfig, TeacherConfig, TrialConfig
from trainables.loop import Interrupted
from trainables.materials import Materials
from trainables.places import Places
from trainables.result import finished_report
from trainables.teacher import TeacherFile, make_teacher, with_weights
from trainables.watchdog import hung
from trainables.weights import load_network
from trainables.worker import Task, Worker

CPU = torch.device("cpu")
CHILD = """
import sys, torch
from pathlib import Path
from trainables.config import TrialConfig
from trainables.loop import Interrupted
from trainables.places import Places
from trainables.worker import Task, Worker
torch.set_num_threads(1)
storage, folder = Path(sys.argv[1]), Path(sys.argv[2])
places = Places(storage=storage, data_root=storage)
task = Task(config=TrialConfig.from_yaml(folder / "config.yaml"), places=places, folder=folder)
worker = Worker(task, torch.device("cpu"))
while not worker.finished:
    worker.epoch()
    if not worker.finished:
        worker.write_checkpoint()
    print(worker.training.epoch, flush=True)
worker.finish()
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    storage = tmp_path_factory.mktemp("storage")
    return Places(storage=storage, data_root=storage)


@pytest.fixture(scope="module")
def config(places: Places) -> TrialConfig:
    torch.set_num_threads(1)
    config = TrialConfig(
        data=DataConfig(name="digits", held_out=0.25),
        teacher=TeacherConfig(architecture="resnet8", epochs=1),
        loss=RRD.Config(queue_size=100, projection_dim=16, student_projection="mlp"),
        kd_weight=0.5,
        epochs=4,
    )
    *_, teacher = make_teacher(config, places, CPU)
    assert isinstance(teacher, TeacherFile)
    return with_weights(config, teacher.weights)


def trained(config: TrialConfig, places: Places, folder: Path) -> Worker:
    worker = Worker(Task(config=config, places=places, folder=folder), CPU)
    while not worker.finished:
        worker.epoch()
    worker.finish()
    return worker


def checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(folder.glob(FILES), reverse=True)


def same(one: Path, other: Path) -> None:
    for name in ("student.safetensors", "best_student.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def same_curves(one: Path, other: Path) -> None:
    ours, theirs = finished_report(one), finished_report(other)
    assert ours is not None
    assert theirs is not None
    for name in ("val_accuracy", "train_loss", "train_rrd_kl", "val_loss"):
        assert [metrics[name] for metrics in ours["curve"]] == [metrics[name] for metrics in theirs["curve"]]


@pytest.fixture(scope="module")
def unbroken(config: TrialConfig, places: Places, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    trained(config, places, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kills", [[1, 3]], ids=str)
def test_killed_and_resumed_ends_bit_for_bit_the_same(
    kills: list[int], config: TrialConfig, places: Places, unbroken: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-c", CHILD, str(places.storage), str(tmp_path)]
    for epoch in kills:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if int(line) >= epoch:
                    break
            time.sleep(0.05)  # somewhere in the next epoch
            os.kill(child.pid, signal.SIGKILL)
        assert checkpoints(tmp_path)
    subprocess.run(command, check=True, capture_output=True)
    same(tmp_path, unbroken)
    same_curves(tmp_path, unbroken)


def test_two_runs_of_a_config_agree_and_another_seed_does_not(
    config: TrialConfig, places: Places, unbroken: Path, tmp_path: Path
) -> None:
    trained(config, places, tmp_path / "again")
    same(tmp_path / "again", unbroken)
    trained(replace(config, seed=1, epochs=1), places, tmp_path / "seed1")
    trained(replace(config, epochs=1), places, tmp_path / "seed0")
    first, second = (load_file(tmp_path / name / "student.safetensors") for name in ("seed0", "seed1"))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])


def test_what_a_trial_leaves(config: TrialConfig, unbroken: Path) -> None:
    report = finished_report(unbroken)
    assert report is not None
    assert sorted(file.name for file in unbroken.iterdir()) == [
        "best_student.safetensors", "config.yaml", "result.json", "student.safetensors"]  # fmt: skip
    assert TrialConfig.from_yaml(unbroken / "config.yaml") == config
    assert [metrics["epoch"] for metrics in report["curve"]] == [1, 2, 3, 4]
    assert report["val_accuracy"] == report["curve"][-1]["val_accuracy"] == report["summary"]["final_val_accuracy"]
    assert report["summary"]["best_val_accuracy"] == max(metrics["val_accuracy"] for metrics in report["curve"])
    names = {"val_accuracy", "val_accuracy_top5", "val_loss", "train_loss", "train_ce", "train_kd", "train_rrd_kl"}
    assert names | {"teacher_entropy", "images_per_second"} <= report["curve"][0].keys()
    assert json.loads((unbroken / "result.json").read_text())["config_hash"] == config.config_hash


@pytest.mark.parametrize("rungs", [(), (1, 2, 3)], ids=["plain", "rungs"])
@pytest.mark.parametrize("batches", [5, 13], ids=str)
def test_interrupted_in_the_middle_it_ends_bit_for_bit_the_same(
    batches: int, rungs: tuple[int, ...], config: TrialConfig, places: Places, unbroken: Path, tmp_path: Path
) -> None:
    """Every so many batches, those for the teacher's table included."""
    task = Task(config=config, places=places, folder=tmp_path, rungs=rungs)
    worker, interrupts = interrupted_every(batches, task), 0
    while not worker.finished:
        try:
            worker.epoch()
        except Interrupted:
            interrupts += 1
            worker = interrupted_every(batches + interrupts, task)
    worker.finish()
    assert interrupts >= 2
    same(tmp_path, unbroken)
    same_curves(tmp_path, unbroken)


def interrupted_every(batches: int, task: Task) -> Worker:
    countdown = iter(range(batches))
    return Worker(task, CPU, interrupted=lambda: next(countdown, None) is None)


def damaged(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "bit flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str,
    config: TrialConfig,
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Task(config=config, places=places, folder=tmp_path)
    worker = Worker(task, CPU)
    monkeypatch.setattr(Checkpoints, "due", False)  # the test says when
    for _ in range(3):
        worker.epoch()
        worker.write_checkpoint()
    newest, before = checkpoints(tmp_path)
    damaged(newest, how)
    assert Worker(task, CPU).training.epoch == 2
    assert "damaged" in caplog.text
    damaged(before, how)
    assert Worker(task, CPU).training.epoch == 0
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("how", ["truncated", "bit flipped"])
@pytest.mark.parametrize("name", ["student.safetensors", "result.json"])
def test_a_damaged_result_is_not_trusted(name: str, how: str, unbroken: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(unbroken, tmp_path / "copy"))
    damaged(copied / name, how)
    with pytest.raises(ValueError, match="damaged"):
        load_network(copied / name, "resnet8x4", 10) if name.endswith("safetensors") else finished_report(copied)


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(
    config: TrialConfig, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(Task(config=config, places=places, folder=tmp_path), CPU)
    worker.epoch()
    worker.write_checkpoint()
    before = checkpoints(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    worker.epoch()
    worker.write_checkpoint()
    assert checkpoints(tmp_path) == before
    assert not list(tmp_path.glob(".checkpoint-*"))


@pytest.mark.slow
def test_a_process_that_stands_still_ends_and_says_where(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from trainables.watchdog import Watchdog
dog = Watchdog(Path({str(tmp_path)!r}) / "hung.txt", 1.0)
for _ in range(15):
    dog.alive()
    time.sleep(0.1)
dog.off()
print("through", flush=True)
dog.alive()
def stand_still():
    time.sleep(60)
stand_still()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "through\n")
    assert hung(tmp_path / "hung.txt")
    assert "stand_still" in (tmp_path / "hung.txt").read_text()


def test_a_checkpoint_of_another_config_is_not_taken(config: TrialConfig, places: Places, tmp_path: Path) -> None:
    worker = Worker(Task(config=config, places=places, folder=tmp_path), CPU)
    worker.epoch()
    worker.write_checkpoint()
    other = Worker(Task(config=replace(config, seed=5), places=places, folder=tmp_path), CPU)
    assert other.training.epoch == 0


@pytest.mark.parametrize("kind", ["random", "identity", "pca"])
def test_every_teacher_projection_trains(kind: str, config: TrialConfig, places: Places, tmp_path: Path) -> None:
    dim = 64 if kind == "identity" else 16
    loss = RRD.Config(queue_size=64, projection_dim=dim, teacher_projection=kind)
    worker = trained(replace(config, loss=loss, epochs=1), places, tmp_path)
    assert 0 <= worker.curve[-1]["train_rrd_kl"] < 20


def test_a_student_alone_needs_no_teacher(config: TrialConfig, places: Places, tmp_path: Path) -> None:
    alone = replace(config, loss=RRD.Config(weight=0), kd_weight=0.0, teacher=TeacherConfig(), epochs=1)
    worker = trained(alone, places, tmp_path)
    assert "train_ce" in worker.curve[0]
    assert "train_rrd_kl" not in worker.curve[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precisions(precision: str, config: TrialConfig, places: Places, tmp_path: Path) -> None:
    worker = trained(config.with_values({"precision": precision, "epochs": 1}), places, tmp_path)
    assert worker.training.distiller.loss.memory.queue.dtype == torch.float32
    assert not worker.diverged


def test_divergence_ends_the_trial(config: TrialConfig, places: Places, tmp_path: Path) -> None:
    worker = trained(replace(config, optimizer=OptimizerConfig(learning_rate=1e8)), places, tmp_path)
    assert worker.diverged
    assert worker.training.epoch < config.epochs


def test_materials_are_shared_by_trials_with_the_same_data_and_teacher(config: TrialConfig, places: Places) -> None:
    materials = Materials(config, places, CPU)
    assert materials.fits(replace(config, seed=3, epochs=1), CPU)
    assert not materials.fits(replace(config, precision="bfloat16"), CPU)
    assert not materials.fits(replace(config, data=replace(config.data, schedule_seed=1)), CPU)


def test_a_trial_that_is_over_is_free_without_the_garbage_collector(
    config: TrialConfig, places: Places, tmp_path: Path
) -> None:
    worker = trained(replace(config, epochs=1), places, tmp_path)
    training = weakref.ref(worker.training)
    gc.disable()
    try:
        del worker
        assert training() is None
    finally:
        gc.enable()


def test_where_a_process_hung_stays_when_the_trial_is_tried_again(
    config: TrialConfig, places: Places, tmp_path: Path
) -> None:
    """On another machine than the driver's nobody else keeps it."""
    (tmp_path / "hung-0.txt").write_text("it stood here")
    Worker(Task(config=config, places=places, folder=tmp_path), CPU).epoch()
    (kept,) = tmp_path.glob("stack-*-0.txt")
    assert kept.read_text() == "it stood here"

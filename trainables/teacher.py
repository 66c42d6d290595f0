"""The frozen network: loaded from a checkpoint or trained here once, kept in the storage folder, served to trials."""

import contextlib
import dataclasses
import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock
from torch import Tensor, nn

from trainables.checkpoint import Checkpoints
from trainables.config import RRD, OptimizerConfig, ScheduleConfig, TrialConfig, usual_learning_rate
from trainables.data.batches import Batches
from trainables.data.parts import Training as TrainingImages
from trainables.data.parts import load_training
from trainables.distiller import Distiller
from trainables.loop import Training, autocast, evaluate, on_device
from trainables.mirror import Mirror
from trainables.models.network import Network
from trainables.outputs import Batch, Outputs
from trainables.places import Places
from trainables.weights import load_network, read_weights, save_weights, weights_hash
from trainables.whole_file import write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher in the storage folder. One that was trained here has seen neither held-out nor test images."""

    path: Path
    weights: str  # content hash
    trained_here: bool
    val_accuracy: float  # on the held-out images, a fraction; nan without held-out images


@dataclass(frozen=True, kw_only=True)
class TeacherProgress:
    epoch: int
    epochs: int
    val_accuracy: float


class LiveTeacher:
    """Computes the teacher's outputs for each batch, without gradients, its batch norm frozen."""

    def __init__(self, network: Network, precision: str, device: torch.device) -> None:
        self.network = on_device(network.eval().requires_grad_(False), device)
        self.precision = precision
        self.device = device
        self.images = 0  # that went through the network

    def epoch(self, number: int, last: int) -> "LiveTeacher":
        """What stands for the teacher in an epoch: itself."""
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        self.images += len(batch.labels)
        with autocast(self.precision, self.device):
            return self.network(batch.images.contiguous(memory_format=torch.channels_last))

    def rows(self, batches: Iterable[Batch], field: str) -> Tensor:
        """What it says in ``field`` of Outputs about all images of these batches, [N, D] float32 on the device."""
        return torch.cat([getattr(self(batch), field).float() for batch in batches])


def no_teacher(batch: Batch) -> Outputs:
    """Stands where a student is trained alone."""
    raise AssertionError("a trial without distillation asked its teacher")


def stored_teacher(config: TrialConfig, places: Places) -> Path:
    """Where the teacher with the config's hash lies, whole. ValueError where it does not."""
    path = _path(config.teacher.architecture, config.teacher.weights, places)
    mirror = Mirror(places)
    if not _is_whole(path) and not (mirror.exists and mirror.pull(path) and _is_whole(path)):
        what = "a damaged teacher" if path.is_file() else "no such teacher"
        raise ValueError(f"{path}: {what}; give its checkpoint with --teacher-checkpoint")
    return path


def load_teacher(config: TrialConfig, places: Places, checkpoint: Path) -> TeacherFile:
    """Check a checkpoint against the config and its data, and copy its weights into the storage folder."""
    images = load_training(config.data, places.storage, places.data_root)
    network = load_network(checkpoint, config.teacher.architecture, len(images.part.classes))
    weights = weights_hash(network.state_dict())
    if config.teacher.weights not in (None, weights):
        raise ValueError(f"{checkpoint}: its weights are {weights}, teacher.weights asks for {config.teacher.weights}")
    path = _store(network, config.teacher.architecture, weights, places)
    accuracy = _accuracy(network, Batches(images.part, config.data), images.held_out_ids)
    return TeacherFile(path=path, weights=weights, trained_here=False, val_accuracy=accuracy)


def make_teacher(config: TrialConfig, places: Places, device: torch.device) -> Iterator[TeacherProgress | TeacherFile]:
    """Train the config's teacher, from its last checkpoint on, or find it trained by an earlier search; the last thing
    yielded is its file."""
    recipe, mirror = teacher_recipe(config), Mirror(places)
    images = load_training(config.data, places.storage, places.data_root)
    note = places.storage / "teachers" / f"{recipe.config_hash}-{images.part.sha256[:16]}.yaml"
    note.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(note.with_suffix(".lock")):
        known = _noted(note, config, places)
        if known is None:
            checkpoints = Checkpoints(note.with_suffix(""), mirror)
            trained = Training(recipe, Distiller(recipe, len(images.part.classes)), device)
            accuracy = yield from _train(trained, images, checkpoints)
            weights = weights_hash(trained.distiller.student.state_dict())
            _store(trained.distiller.student, config.teacher.architecture, weights, places)
            known = {"weights": weights, "val_accuracy": accuracy, "recipe": recipe.to_dict()}
            write_whole(note, yaml.safe_dump(known, sort_keys=False).encode())
            mirror.push(note)
            checkpoints.delete()
            with contextlib.suppress(OSError):  # it was never made, where no checkpoint was due
                checkpoints.folder.rmdir()
    path = _path(config.teacher.architecture, known["weights"], places)  # which was looked at, or written, above
    yield TeacherFile(path=path, weights=known["weights"], trained_here=True, val_accuracy=known["val_accuracy"])


def _noted(note: Path, config: TrialConfig, places: Places) -> dict[str, Any] | None:
    """What the note says of a teacher that is there and whole."""
    if not note.is_file() and not Mirror(places).pull(note):
        return None
    known: dict[str, Any] = yaml.safe_load(note.read_text())
    try:
        stored_teacher(with_weights(config, known["weights"]), places)
    except ValueError as error:
        log.warning("%s: it is trained again", str(error).partition(";")[0])
        return None
    return known


def with_weights(config: TrialConfig, weights: str) -> TrialConfig:
    return dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, weights=weights))


def teacher_recipe(config: TrialConfig) -> TrialConfig:
    """How the config's teacher is trained: as a student alone, by the papers' recipe, on the same training images."""
    return TrialConfig(
        # The teacher's own seed, so that searches of any seed share one.
        data=dataclasses.replace(config.data, schedule_seed=config.teacher.seed),
        student=config.teacher.architecture,
        loss=RRD.Config(weight=0),
        optimizer=OptimizerConfig(learning_rate=usual_learning_rate(config.teacher.architecture)),
        schedule=ScheduleConfig(),
        batch_size=min(64, config.batch_size),
        epochs=config.teacher.epochs,
        seed=config.teacher.seed,
    )


def _train(
    training: Training, images: TrainingImages, checkpoints: Checkpoints
) -> Generator[TeacherProgress, None, float]:
    recipe = training.config
    batches = Batches(images.part, recipe.data, images.train_ids, training.device)
    accuracy = float("nan")
    if (state := checkpoints.read()) is not None:
        training.load_state_dict(state["training"])
        torch.set_rng_state(state["random_state"])
        accuracy = state["val_accuracy"]
    while training.epoch < recipe.epochs:
        training.train_epoch(batches.epoch(training.epoch + 1, recipe.batch_size), no_teacher)
        accuracy = _accuracy(training.distiller.student, batches, images.held_out_ids)
        yield TeacherProgress(epoch=training.epoch, epochs=recipe.epochs, val_accuracy=accuracy)
        if checkpoints.due:
            state = {"training": training.state_dict(), "random_state": torch.get_rng_state()}
            with contextlib.suppress(OSError):  # a full disk costs the checkpoint, not the teacher
                checkpoints.write({**state, "val_accuracy": accuracy})
    return accuracy


def _accuracy(network: nn.Module, batches: Batches, held_out_ids: np.ndarray) -> float:
    """On the held-out images, a fraction; nan without any."""
    if not len(held_out_ids):
        return float("nan")
    return evaluate(network, batches.unaugmented(held_out_ids), "float32")["val_accuracy"]


def _store(network: nn.Module, architecture: str, weights: str, places: Places) -> Path:
    path = _path(architecture, weights, places)
    if not _is_whole(path):
        save_weights(network.state_dict(), path)
        Mirror(places).push(path)
    return path


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        read_weights(path)
    except ValueError as damage:
        log.warning("%s", damage)
        return False
    return True


def _path(architecture: str, weights: str | None, places: Places) -> Path:
    return places.storage / "teachers" / f"{architecture}-{weights}.safetensors"

"""What both sides of ``search.py`` are given: data on disk, a teacher's checkpoint, the size of the search."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.data import DATASETS
from trainables.models import MODELS
from trainables.places import Places
from trainables.teacher import TeacherFile, make_teacher
from trainables.weights import read_weights

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search as both sides run it. ``root`` holds the downloaded data, ``checkpoint`` the teacher's weights."""

    data: str
    image_size: int
    held_out: float
    teacher: str
    student: str
    queue_size: int
    epochs: int
    trials: int
    concurrent: int
    root: Path
    checkpoint: Path
    seed: int = 0

    @property
    def config(self) -> TrialConfig:
        return TrialConfig(
            data=DataConfig(name=self.data, image_size=self.image_size, held_out=self.held_out),
            teacher=TeacherConfig(architecture=self.teacher),
            student=self.student,
            loss=RRD.Config(queue_size=self.queue_size, enqueue="before"),
            batch_size=BATCH_SIZE,
            epochs=self.epochs,
        )


def write_cifar100(root: Path, images: int) -> None:
    """CIFAR-100's files with pixels of noise: training images, and as few test images as there are classes."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", images), ("test", 100)):
        pixels = generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        labels = [number % 100 for number in range(count)]
        (folder / part).write_bytes(pickle.dumps({b"data": pixels, b"fine_labels": labels}, protocol=2))
    names = [f"class {number}".encode() for number in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))


def write_drawn_teacher(architecture: str, data: str, path: Path) -> None:
    """A checkpoint of drawn weights: the time that a teacher takes does not depend on them."""
    torch.manual_seed(0)
    classes = DATASETS[data].num_classes
    torch.save(MODELS[architecture](num_classes=classes).state_dict(), path)


def write_trained_teacher(searched: Searched, epochs: int) -> None:
    """Train the teacher on what is not held out."""
    config = searched.config.with_values({"teacher.epochs": epochs})
    places = Places(storage=searched.root / "teacher", data_root=searched.root)
    *_, teacher = make_teacher(config, places, torch.device("cpu"))
    assert isinstance(teacher, TeacherFile), "the last that is said"
    torch.save(read_weights(teacher.path), searched.checkpoint)

"""The pairs of networks that are timed, with drawn weights, and random images in CIFAR-100's shape: neither the time
of a step nor that of a loss depends on what the weights or pixels are."""

from dataclasses import dataclass

import numpy as np
import torch

from trainables.data.cifar import CIFAR100
from trainables.data.config import DataConfig
from trainables.data.image_file import Images
from trainables.models import MODELS
from trainables.models.network import Network

CLASSES = 100
DATA = DataConfig(name="cifar100")


@dataclass(frozen=True)
class Pair:
    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} > {self.student}"


PAIRS = (
    Pair("resnet32x4", "resnet8x4"),
    Pair("resnet56", "resnet20"),
    Pair("wrn_40_2", "wrn_16_2"),
    Pair("vgg13", "vgg8"),
)


def drawn(name: str) -> Network:
    torch.manual_seed(0)
    return MODELS[name](num_classes=CLASSES)


def random_images(count: int) -> Images:
    """Training images of noise, with CIFAR-100's own mean and deviation."""
    generator = np.random.default_rng(0)
    assert CIFAR100.mean is not None, "known by name"
    assert CIFAR100.std is not None, "known by name"
    return Images(
        images=generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8),
        labels=generator.integers(0, CLASSES, count),
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        mean=CIFAR100.mean,
        std=CIFAR100.std,
        sha256="",
    )

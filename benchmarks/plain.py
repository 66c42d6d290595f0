"""The authors' recipe as one would write it down: what the project's own training is measured against.

One Pillow image at a time, a live teacher, a queue that is cloned for every loss, numbers fetched at every step. The
networks are the project's, so that both sides have the same. Names follow the project, arithmetic follows the recipe.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainables.models import MODELS

VALIDATION_BATCH = 32  # half the training batch
Loader = DataLoader[tuple[Tensor, int]]


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, each through Pillow when it is asked for, as torchvision's CIFAR datasets do it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: transforms.Compose) -> None:
        self.images = np.ascontiguousarray(np.asarray(images).transpose(0, 2, 3, 1))  # [N, H, W, 3] uint8
        self.labels = [int(label) for label in labels]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def augmenting(mean: Sequence[float], std: Sequence[float], size: int = 32, flip: bool = True) -> transforms.Compose:
    """A random crop of the image with a black border of an eighth of its side, a random flip, normalisation."""
    crop: list[object] = [transforms.RandomCrop(size, padding=size // 8)]
    mirror: list[object] = [transforms.RandomHorizontalFlip()] if flip else []
    return transforms.Compose([*crop, *mirror, transforms.ToTensor(), transforms.Normalize(mean, std)])


def unaugmented(mean: Sequence[float], std: Sequence[float]) -> transforms.Compose:
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


def training_loader(images: Dataset[tuple[Tensor, int]], batch_size: int) -> Loader:
    """Without worker processes: on one core they only share what there is."""
    return DataLoader(images, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=0)


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """Of the recipe; defaults as in the authors' later code, whose queue takes the batch before it is used."""

    student_temperature: float = 0.10
    teacher_temperature: float = 0.02
    queue_size: int = 16384
    projection_dim: int = 128
    ce_weight: float = 1.0
    kd_weight: float = 0.0
    kd_temperature: float = 4.0
    rrd_weight: float = 1.0
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4


class PlainRRD(nn.Module):
    """Cross-entropy of the two networks' softmax similarities to a queue of teacher embeddings, by autograd."""

    queue: Tensor  # [K, d]
    position: Tensor  # [1] int64

    def __init__(self, settings: PlainSettings, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.student_projection = nn.Linear(student_dim, settings.projection_dim)
        self.teacher_projection = nn.Linear(teacher_dim, settings.projection_dim)
        start = torch.randn(settings.queue_size, settings.projection_dim)
        self.register_buffer("queue", F.normalize(start, dim=0))  # by column: the recipe's own oddity
        self.register_buffer("position", torch.zeros(1, dtype=torch.long))

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        student = F.normalize(self.student_projection(student_embedding), dim=1)
        teacher = F.normalize(self.teacher_projection(teacher_embedding), dim=1).detach()
        self.enqueue(teacher)
        queue = self.queue.clone().detach()
        student_similarity = torch.einsum("nc,kc->nk", student, queue)  # [B, K]
        teacher_similarity = torch.einsum("nc,kc->nk", teacher, queue)
        log_student = F.log_softmax(student_similarity / self.settings.student_temperature, dim=1)
        p_teacher = F.softmax(teacher_similarity / self.settings.teacher_temperature, dim=1)
        return -(p_teacher * log_student).sum(dim=1).mean()

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor) -> None:
        size, count = len(self.queue), len(embeddings)
        assert size % count == 0, f"the recipe's queue of {size} must be a multiple of the batch of {count}"
        position = int(self.position)
        self.queue[position : position + count] = embeddings
        self.position[0] = (position + count) % size


class PlainTraining:
    """A student taught by a live teacher, one optimizer over it and both projections, as the recipe has it."""

    def __init__(
        self, student: str, teacher: nn.Module, num_classes: int, settings: PlainSettings, device: torch.device
    ) -> None:
        self.settings, self.device = settings, device
        self.student = MODELS[student](num_classes=num_classes).to(device)
        self.teacher = teacher.to(device)
        dims = (self.student.embedding_dim, int(teacher.embedding_dim))  # type: ignore[arg-type]
        self.rrd = PlainRRD(settings, *dims).to(device)
        self.optimizer = torch.optim.SGD(
            nn.ModuleList([self.student, self.rrd]).parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def train_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Train on these batches; mean loss, and top-1 and top-5 accuracy in percent."""
        self.student.train()
        self.rrd.train()
        self.teacher.eval()
        meters = {name: Meter() for name in ("loss", "top1", "top5")}
        for images, labels in batches:
            self._step(images.float().to(self.device), labels.to(self.device), meters)
        return {name: meter.mean for name, meter in meters.items()}

    def _step(self, images: Tensor, labels: Tensor, meters: dict[str, "Meter"]) -> None:
        student = self.student(images)
        with torch.no_grad():
            teacher = self.teacher(images)
        ce = F.cross_entropy(student.logits, labels)
        kd = plain_kd(student.logits, teacher.logits, self.settings.kd_temperature)  # also where its weight is 0
        rrd = self.rrd(student.embedding, teacher.embedding.detach())
        loss = self.settings.ce_weight * ce + self.settings.kd_weight * kd + self.settings.rrd_weight * rrd
        top1, top5 = top_accuracy(student.logits, labels)
        meters["loss"].add(loss.item(), len(images))
        meters["top1"].add(top1.item(), len(images))
        meters["top5"].add(top5.item(), len(images))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Top-1 accuracy, a fraction."""
        self.student.eval()
        meters = {name: Meter() for name in ("loss", "top1", "top5")}
        for images, labels in batches:
            images, labels = images.float().to(self.device), labels.to(self.device)
            logits = self.student(images).logits
            loss = F.cross_entropy(logits, labels)
            for meter, value in zip(meters.values(), (loss, *top_accuracy(logits, labels)), strict=True):
                meter.add(value.item(), len(images))
        return meters["top1"].mean / 100


class Meter:
    """A running mean, weighted by batch size."""

    def __init__(self) -> None:
        self.last = self.mean = self.sum = 0.0
        self.count = 0

    def add(self, value: float, count: int) -> None:
        self.last = value
        self.sum += value * count
        self.count += count
        self.mean = self.sum / self.count


def plain_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean over the batch of T^2 KL(teacher || student), both softened."""
    log_student = F.log_softmax(student / temperature, dim=1)
    p_teacher = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, p_teacher, reduction="batchmean") * temperature**2


@torch.no_grad()
def top_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 and top-5 accuracy in percent."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices.t()  # [5, B]
    right = best.eq(labels.view(1, -1).expand_as(best))
    top1, top5 = (right[:k].reshape(-1).float().sum() * (100.0 / len(labels)) for k in (1, 5))
    return top1, top5

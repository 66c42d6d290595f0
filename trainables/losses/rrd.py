"""Relational Representation Distillation: relate each image to a queue of teacher embeddings as the teacher does."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables import checks
from trainables.losses.loss import Loss
from trainables.losses.memory import Memory
from trainables.outputs import Batch, Outputs
from trainables.ranks import gather

ENQUEUE = ("after", "before")
TEACHER_PROJECTIONS = ("random", "identity", "pca")
STUDENT_PROJECTIONS = ("linear", "mlp")
BLOCK_ROWS = 512  # of the queue at a time
BLOCK_NUMBERS = 2**24  # similarities at a time on a GPU: 64 MiB


class RRD(Loss):
    """The student's similarities to a queue of past teacher embeddings should be distributed like the teacher's.

    Giakoumoglou and Stathaki, "Relational Representation Distillation" (arXiv 2407.12073). With unit vectors
    z = normalize(projection(embedding)) and the queue Q [K, d] of past z_teacher:

        p = softmax(Q z / temperature)        for each network with its own temperature
        loss = mean over the batch of - sum_k p_teacher[k] log p_student[k]

    It is a cross-entropy: its least value is the teacher's entropy, so ``last`` holds ``rrd_kl`` (loss minus that
    entropy, which can reach 0) and ``teacher_entropy``. Version 2 of the paper enqueues the batch *after* its
    similarities were taken and has temperatures 0.04 (student) and 0.10 (teacher); the authors' later code enqueues
    *before*, with 0.10 and 0.02, and so mostly recognises the image itself. The teacher's projection is never trained.
    Reads ``embedding`` of both networks.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Defaults: version 2. ``weight`` is the papers' beta; ``projection_seed`` draws the teacher's projection and
        the queue's first rows, apart from the student's weights."""

        name: ClassVar[str] = "rrd"
        weight: float = 1.0
        student_temperature: float = 0.04
        teacher_temperature: float = 0.10
        queue_size: int = 16384
        projection_dim: int = 128
        teacher_projection: str = "random"
        student_projection: str = "linear"
        enqueue: str = "after"
        projection_seed: int = 0

        def __post_init__(self) -> None:
            checks.not_negative("loss.weight", self.weight)
            checks.positive("loss.student_temperature", self.student_temperature)
            checks.positive("loss.teacher_temperature", self.teacher_temperature)
            checks.at_least("loss.queue_size", self.queue_size, 1)
            checks.at_least("loss.projection_dim", self.projection_dim, 1)
            checks.one_of("loss.teacher_projection", self.teacher_projection, TEACHER_PROJECTIONS)
            checks.one_of("loss.student_projection", self.student_projection, STUDENT_PROJECTIONS)
            checks.one_of("loss.enqueue", self.enqueue, ENQUEUE)
            checks.at_least("loss.projection_seed", self.projection_seed, 0)

        def check_dims(self, student_dim: int, teacher_dim: int) -> None:
            """Raise ValueError where the teacher's projection cannot have ``projection_dim`` outputs."""
            if self.teacher_projection == "identity":
                rule = f"{teacher_dim}, the size of the teacher's embedding, with the identity projection"
                checks.require(self.projection_dim == teacher_dim, "loss.projection_dim", rule, self.projection_dim)
            if self.teacher_projection == "pca":
                rule = f"at most {teacher_dim}, the size of the teacher's embedding, with the pca projection"
                checks.require(self.projection_dim <= teacher_dim, "loss.projection_dim", rule, self.projection_dim)

    def __init__(self, config: Config, *, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        config.check_dims(student_dim, teacher_dim)
        self.config = config
        self.needs_preparation = config.teacher_projection == "pca"
        self.student_projection = _student_projection(config, student_dim)
        generator = torch.Generator().manual_seed(config.projection_seed)
        self.teacher_projection = _teacher_projection(config, teacher_dim, generator)
        self.memory = Memory(config.queue_size, config.projection_dim, generator)

    @classmethod
    def build(cls, config: Config, student: Outputs, teacher: Outputs) -> Self:
        return cls(config, student_dim=student.embedding.shape[1], teacher_dim=teacher.embedding.shape[1])

    @torch.no_grad()
    def prepare(self, embeddings: Tensor) -> None:
        """Turn the teacher's projection to the principal axes of its embeddings [N, D] of the unaugmented images."""
        projection = self.teacher_projection
        assert isinstance(projection, nn.Linear), "only the pca projection is prepared"
        wanted = self.config.projection_dim
        rule = f"at most {len(embeddings)}, the number of training images, with the pca projection"
        checks.require(wanted <= len(embeddings), "loss.projection_dim", rule, wanted)
        mean = embeddings.double().mean(0)
        centred = embeddings.double() - mean
        _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
        axes = axes.flip(1)[:, :wanted].T  # [d, D]
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes * largest.sign()  # eigenvectors have no sign of their own: make it the same on every machine
        projection.weight.copy_(axes)
        projection.bias.copy_(-(axes @ mean))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch | None = None) -> Tensor:
        """The scalar loss; in training mode the batch's teacher embeddings are in the queue when it returns."""
        with torch.autocast(student.embedding.device.type, enabled=False):
            dtype = self.memory.queue.dtype  # similarities over a small temperature need more than half precision
            student_unit = F.normalize(self.student_projection(student.embedding.to(dtype)), dim=1)  # [B, d]
            with torch.no_grad():
                teacher_unit = F.normalize(self.teacher_projection(teacher.embedding.to(dtype)), dim=1)
            if self.training and self.config.enqueue == "before":
                self.memory.push(gather(teacher_unit))
            temperatures = (self.config.student_temperature, self.config.teacher_temperature)
            loss, entropy = RelationalCrossEntropy.apply(student_unit, teacher_unit, self.memory.queue, *temperatures)
            if self.training and self.config.enqueue == "after":
                self.memory.push(gather(teacher_unit))
        self.last = {"rrd_kl": loss.detach() - entropy, "teacher_entropy": entropy}
        return loss


class RelationalCrossEntropy(torch.autograd.Function):
    """Cross-entropy of the two networks' softmax similarities to the queue, and the teacher's mean entropy.

    With l = Q z / temperature, p = softmax(l) and m = sum_k p[k] q_k, for each network, the loss is
    logsumexp(l_student) - <z_student, m_teacher> / student_temperature, the teacher's entropy
    logsumexp(l_teacher) - <z_teacher, m_teacher> / teacher_temperature, and the gradient in z_student
    (m_student - m_teacher) / (student_temperature B). One pass over the queue gives both networks' logsumexp and m, so
    the B x K similarities are never stored, and the queue may be overwritten before the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        queue: Tensor,
        student_temperature: float,
        teacher_temperature: float,
    ) -> tuple[Tensor, Tensor]:
        scaled = torch.cat([student / student_temperature, teacher / teacher_temperature])  # [2B, d]
        logsumexp, mean = _softmax_mean(scaled, queue)
        student_mean, teacher_mean = mean.chunk(2)
        scaled_student, scaled_teacher = scaled.chunk(2)
        of_student, of_teacher = logsumexp.chunk(2)
        loss = (of_student - (scaled_student * teacher_mean).sum(1)).mean()
        entropy = (of_teacher - (scaled_teacher * teacher_mean).sum(1)).mean()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((student_mean - teacher_mean).div_(student_temperature * len(student)))  # [B, d]
        ctx.mark_non_differentiable(entropy)
        return loss, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (of_student,) = ctx.saved_tensors
        return of_student * gradients[0], None, None, None, None


def _softmax_mean(scaled: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """logsumexp_k <x, q_k>, [R], and sum_k softmax_k(<x, q_k>) q_k, [R, d], for each row x of ``scaled`` [R, d].

    A block of the queue at a time, with a running maximum (Milakov and Gimelshein, arXiv 1805.02867).
    """
    maximum = scaled.new_full((len(scaled), 1), -torch.inf)
    total, weighted = scaled.new_zeros(len(scaled), 1), torch.zeros_like(scaled)
    for block in queue.split(_block_rows(scaled)):
        similarity = scaled @ block.T  # [R, block]
        higher = torch.maximum(maximum, similarity.amax(1, keepdim=True))
        rescale = (maximum - higher).exp_()
        weight = similarity.sub_(higher).exp_()
        total = total.mul_(rescale).add_(weight.sum(1, keepdim=True))
        weighted = weighted.mul_(rescale).addmm_(weight, block)
        maximum = higher
    return (total.log() + maximum)[:, 0], weighted.div_(total)


def _block_rows(scaled: Tensor) -> int:
    """On a CPU as many as its caches like; on a GPU, where each operation costs a launch, many more."""
    return BLOCK_ROWS if scaled.device.type == "cpu" else max(BLOCK_ROWS, BLOCK_NUMBERS // len(scaled))


def _student_projection(config: RRD.Config, dim: int) -> nn.Module:
    if config.student_projection == "linear":
        return nn.Linear(dim, config.projection_dim)
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, config.projection_dim))


def _teacher_projection(config: RRD.Config, dim: int, generator: torch.Generator) -> nn.Module:
    """Frozen. A random one is drawn as torch draws a new linear layer, uniform within 1 / sqrt(dim)."""
    if config.teacher_projection == "identity":
        return nn.Identity()
    projection = nn.Linear(dim, config.projection_dim)
    bound = dim**-0.5
    with torch.no_grad():
        projection.weight.uniform_(-bound, bound, generator=generator)
        projection.bias.uniform_(-bound, bound, generator=generator)
    return projection.requires_grad_(False)

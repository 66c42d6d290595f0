"""Relational Representation Distillation: relate each image to a queue of teacher embeddings as the teacher does."""

import math
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
LOG2_E, LN_2 = math.log2(math.e), math.log(2)  # powers of 2 take half the time of powers of e
# Sum of 1 / temperature up to which unit vectors need no shift in float32: 101 bits for 2^x, 16 for 65536 of them.
UNSHIFTED = 70.0
LEAST_KEYS = 1024  # of the queue at a time, and
BLOCK_SIMILARITIES = 2**19  # of both networks together: 2 MiB, which a CPU's caches hold
CPU_SIMILARITIES = 2**22  # of each network at a time: 16 MiB
DEVICE_SIMILARITIES = 2**24  # on a GPU, where each operation costs a launch
LEAST_ROWS = 64


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

    Its gradient is computed on the way, some rows of the batch at a time, so that only of small batches all B x K
    similarities exist at once, and the queue may be overwritten before the backward pass.
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
        bounded = 1 / student_temperature + 1 / teacher_temperature <= UNSHIFTED
        rows = _rows_at_once(queue, bounded)
        loss, entropy, gradients = queue.new_zeros(()), queue.new_zeros(()), []
        for some_student, some_teacher in zip(student.split(rows), teacher.split(rows), strict=True):
            exponents = torch.cat([some_student / student_temperature, some_teacher / teacher_temperature])
            some_loss, some_entropy, gradient = _related(exponents * LOG2_E, queue, bounded)
            loss, entropy = loss + some_loss, entropy + some_entropy
            gradients.append(gradient)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients).div_(student_temperature * len(student)))  # [B, d]
        entropy = entropy / len(student)
        ctx.mark_non_differentiable(entropy)
        return loss / len(student), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (of_student,) = ctx.saved_tensors
        return of_student * gradients[0], None, None, None, None


def _related(exponents: Tensor, queue: Tensor, bounded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss, summed entropy, and [b, d] the gradient of the loss but for its factor, of b rows of the batch.

    ``exponents`` [2b, d] are the student's unit vectors over its temperature, below them the teacher's, times log2(e):
    with x = <exponent, q> and Z = sum_k 2^x_k, p = 2^x / Z, the loss is ln 2 (log2 Z_student - sum_k p_teacher
    x_student), the entropy the same with x_teacher, and the gradient sum_k (p_student - p_teacher) q_k.
    """
    rows = len(exponents) // 2
    in_blocks = bounded and not queue.is_cuda
    blocks = queue.split(max(LEAST_KEYS, BLOCK_SIMILARITIES // len(exponents)) if in_blocks else len(queue))
    powers: list[Tensor] = []
    room = queue.new_empty(2 * rows, len(blocks[0]))
    total, of_both = queue.new_zeros(2 * rows), queue.new_zeros(rows, 1, 2)
    for keys in blocks:
        x = torch.mm(exponents, keys.T, out=room[:, : len(keys)])  # [2b, keys]
        if not bounded:
            x.sub_(x.amax(1, keepdim=True))  # of all keys, which are then one block
        power = x.exp2()
        total += power.sum(1)
        # 2^x_teacher is read once for its products with x_student and x_teacher: [b, 1, keys] @ [b, keys, 2]
        of_both += torch.bmm(power[rows:, None], x.view(2, rows, -1).permute(1, 2, 0))
        powers.append(power)
    z_student, z_teacher = total.split(rows)
    of_student, of_teacher = of_both[:, 0].unbind(1)
    ratio = (z_student / z_teacher)[:, None]
    gradient = torch.zeros_like(exponents[:rows])
    for power, keys in zip(powers, blocks, strict=True):
        gradient.addmm_(power[:rows].addcmul_(power[rows:], ratio, value=-1), keys)
    loss = (z_student.log2() - of_student / z_teacher).sum() * LN_2
    entropy = (z_teacher.log2() - of_teacher / z_teacher).sum() * LN_2
    return loss, entropy, gradient.div_(z_student[:, None])


def _rows_at_once(queue: Tensor, bounded: bool) -> int:
    """Rows of the batch whose similarities are held at once."""
    if queue.is_cuda:
        return max(LEAST_ROWS, DEVICE_SIMILARITIES // len(queue))
    return max(LEAST_ROWS if bounded else LEAST_ROWS // 2, CPU_SIMILARITIES // len(queue))


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

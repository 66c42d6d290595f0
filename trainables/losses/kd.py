"""Knowledge distillation: the student's softened class probabilities should equal the teacher's."""

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor
from torch.nn import functional as F

from trainables import checks
from trainables.losses.loss import Loss
from trainables.outputs import Batch, Outputs, unhalved


class KD(Loss):
    """Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2.

    loss = T^2 * mean over the batch of KL(softmax(teacher / T) || softmax(student / T)), T the temperature.
    Reads ``logits`` of both networks.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        name: ClassVar[str] = "kd"
        weight: float = 1.0
        temperature: float = 4.0

        def __post_init__(self) -> None:
            checks.not_negative("loss.weight", self.weight)
            checks.positive("loss.temperature", self.temperature)

        def check_dims(self, student_dim: int, teacher_dim: int) -> None:
            """Any two networks with the same classes fit."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(cls, config: Config, student: Outputs, teacher: Outputs) -> Self:
        return cls(config)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch | None = None) -> Tensor:
        temperature = self.config.temperature
        student_log = F.log_softmax(unhalved(student.logits) / temperature, dim=1)  # [B, C]
        teacher_log = F.log_softmax(unhalved(teacher.logits).detach() / temperature, dim=1)
        return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2

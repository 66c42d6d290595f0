"""What every distillation loss is and offers; a new one subclasses it and names itself in ``LOSSES``."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from trainables.outputs import Batch, Outputs


class Loss(nn.Module):
    """Called with what student and teacher say about a batch; returns the scalar mean over the batch.

    ``needs`` names the fields of Outputs that it reads. What it wants shown it leaves detached in ``last``. Its own
    ``Config`` has a class variable ``name``, a field ``weight``, and ``check_dims(student_dim, teacher_dim)``, which
    raises ValueError where it does not go with networks of such embeddings. Memories are buffers, written in training
    mode only and equal on every rank.
    """

    needs: ClassVar[frozenset[str]]
    needs_preparation = False  # whether ``prepare`` must be called before training

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Tensor] = {}

    @classmethod
    def build(cls, config: Any, student: Outputs, teacher: Outputs) -> Self:
        """The loss for networks whose outputs have these shapes (the tensors may be on the meta device)."""
        raise NotImplementedError

    def prepare(self, embeddings: Tensor) -> None:
        """See the teacher's embeddings [N, D] of the unaugmented training images."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch | None = None) -> Tensor:
        raise NotImplementedError

"""Student and losses as one nn.Module: a batch and the teacher's outputs go in, named loss terms come out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import KD, TrialConfig
from trainables.losses import LOSSES
from trainables.losses.loss import Loss
from trainables.models import MODELS, shapes
from trainables.outputs import Batch, Outputs, unhalved


class Distiller(nn.Module):
    """The student with whatever the losses train beside it.

    One module, so that the optimizer, device moves, checkpoints and data parallelism treat a loss's own layers
    rightly. A loss of weight 0 does not exist. Cross-entropy is always taken: it costs nothing and is shown.
    """

    def __init__(self, config: TrialConfig, num_classes: int) -> None:
        """Draws the initial weights from ``config.seed``: first the student's, so that no loss changes them."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.student = MODELS[config.student](num_classes=num_classes)
            self.loss = _build_loss(config, num_classes) if config.loss.weight else None
        self.kd = KD(KD.Config(temperature=config.kd_temperature)) if config.kd_weight else None
        self.weights = {"ce": config.ce_weight, "kd": config.kd_weight, "loss": config.loss.weight}

    @property
    def needs_teacher(self) -> bool:
        return self.loss is not None or self.kd is not None

    def forward(self, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        """The mean loss over the batch as ``loss``, with its gradient; beside it the terms to be shown, detached."""
        student: Outputs = self.student(batch.images)
        ce = F.cross_entropy(unhalved(student.logits), batch.labels)
        total = self.weights["ce"] * ce
        shown = {"ce": ce.detach()}
        if self.kd is not None and teacher is not None:
            kd = self.kd(student, teacher, batch)
            total = total + self.weights["kd"] * kd
            shown["kd"] = kd.detach()
        if self.loss is not None and teacher is not None:
            total = total + self.weights["loss"] * self.loss(student, teacher, batch)
            shown |= self.loss.last
        return {"loss": total, **shown}


def _build_loss(config: TrialConfig, num_classes: int) -> Loss:
    student, teacher = (
        shapes(name, config.data.image_size, num_classes) for name in (config.student, config.teacher.architecture)
    )
    return LOSSES[config.loss.name].build(config.loss, student, teacher)

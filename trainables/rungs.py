"""Rungs: the epochs after which trials of a search are compared, and the averaged student that is compared there.

While the learning rate is high, a student's accuracy jumps from epoch to epoch, and settings that win late look bad.
The mean of its weights over an epoch's steps previews what a lower rate will make of it, for next to nothing:
``benchmarks.rungs`` has the rank correlations with the end.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn, update_bn

from trainables.config import TrialConfig
from trainables.loop import autocast
from trainables.outputs import Batch

AFTER_DROP = 0.02  # of the epochs lie between the learning rate's first drop and the rung that shows its effect
WORTH_STOPPING = 0.25  # of the epochs: a stop that saves less only thins out the trials that reach their end
STATISTICS_IMAGES = 256  # at least, for the averaged student's batch norm; with 1024, trials rank no better


def rungs(config: TrialConfig) -> tuple[int, ...]:
    """After a ninth and a third of the epochs, and, for a step schedule, soon after its first drop; ascending."""
    epochs = config.epochs
    found = sorted({max(1, round(epochs / 9)), max(1, round(epochs / 3))})
    if config.schedule.kind == "step" and config.schedule.milestones:
        dropped = math.floor(config.schedule.milestones[0] * epochs)  # epochs before the drop
        after = dropped + max(1, round(AFTER_DROP * epochs))
        if found[-1] < after <= (1 - WORTH_STOPPING) * epochs:
            found.append(after)
    return tuple(epoch for epoch in found if epoch < epochs)


class WeightAverage:
    """The mean of a student's weights over the steps of an epoch. It only reads the student."""

    def __init__(self, student: nn.Module) -> None:
        self._student = student
        self._average = AveragedModel(student, multi_avg_fn=get_swa_multi_avg_fn())

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; after the step on each of them the student's weights go into the mean."""
        for batch in batches:
            yield batch  # the step is taken before the next batch is asked for
            self._average.update_parameters(self._student)

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return dict(self._average.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)

    def student(self, batches: Iterable[Batch], precision: str, device: torch.device) -> nn.Module:
        """The student with the mean weights. Its batch norm statistics are those of the first of these ``batches``,
        the same ones on every rank: statistics of other weights would not fit."""
        with autocast(precision, device):
            update_bn(_first(batches, STATISTICS_IMAGES), self._average.module)
        return self._average.module


def _first(batches: Iterable[Batch], images: int) -> Iterator[torch.Tensor]:
    """The images of so many batches that they are at least ``images``."""
    for batch in batches:
        yield batch.images.contiguous(memory_format=torch.channels_last)
        images -= len(batch.labels)
        if images <= 0:
            return

"""Distillation losses, one a file, called as ``loss(student: Outputs, teacher: Outputs, batch: Batch | None)``.

To add one: write its file with its own ``Config`` (see ``Loss``), one line below, and its ``Config`` in the
``LossConfig`` of ``trainables/config.py``.
"""

from trainables.losses.kd import KD
from trainables.losses.loss import Loss
from trainables.losses.rrd import RRD

LOSSES: dict[str, type[Loss]] = {"rrd": RRD, "kd": KD}

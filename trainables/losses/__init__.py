"""Distillation losses, one a file, called as ``loss(student: Outputs, teacher: Outputs, batch: Batch | None)``.

To add one: write its file with its own ``Config`` (beside the method's fields, ``name`` and ``weight``), and one line
below.
"""

from trainables.losses.kd import KD
from trainables.losses.loss import Loss
from trainables.losses.rrd import RRD

LOSSES: dict[str, type[Loss]] = {"rrd": RRD, "kd": KD}

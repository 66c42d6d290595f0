"""Should the student or the teacher be the sharper one, and how sharp? Everything else is as published.

For both orders of enqueueing: with the image itself in the queue, a sharp teacher sees nothing but that image.
"""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import TrialConfig

FIELDS = ("loss.student_temperature", "loss.teacher_temperature", "loss.enqueue")
BASE = rrd.BASE
START = {
    "version 2": {name: rrd.VERSION_2[name] for name in FIELDS},
    "later version": {name: rrd.LATER_VERSION[name] for name in FIELDS},
}
REFERENCES = rrd.REFERENCES
TRIALS = 40


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = rrd.temperatures(trial, rrd.rrd_of(base))
    return replace(base, loss=replace(loss, enqueue=rrd.order(trial)))

"""Does RRD help a small student read digits, and how should it be set? Finishes in minutes on a laptop.

900 images train, 300 select. The learning rate is not searched, so that the winner, KD alone and the student alone
differ in what the student is taught, not in how fast.
"""

from dataclasses import replace
from typing import Any

import optuna

from search_spaces import rrd
from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig

QUEUE_SIZES = (128, 256, 512, 1024)

BASE = TrialConfig(
    data=DataConfig(name="digits", image_size=16, held_out=0.25),  # a tenth would be 120 images: too few to select on
    teacher=TeacherConfig(architecture="resnet20", epochs=20),
    student="resnet8",
    loss=RRD.Config(queue_size=256),
    batch_size=64,
    epochs=5,
)
FIELDS = (
    "loss.student_temperature",
    "loss.teacher_temperature",
    "loss.enqueue",
    "loss.weight",
    "kd_weight",
)
QUEUE = {"loss.queue_size": 256}  # holds the part of an epoch that the published 16384 hold of CIFAR's: about 30 %
START: dict[str, dict[str, Any]] = {
    "version 2": {name: rrd.VERSION_2[name] for name in FIELDS} | QUEUE,
    "later version": {name: rrd.LATER_VERSION[name] for name in FIELDS} | QUEUE,
}
REFERENCES = rrd.REFERENCES
TRIALS = 16


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = rrd.temperatures(trial, rrd.rrd_of(base))
    loss = replace(
        loss,
        queue_size=trial.suggest_categorical("loss.queue_size", QUEUE_SIZES),
        enqueue=rrd.order(trial),
        weight=rrd.rrd_weight(trial),
    )
    kd_weight = trial.suggest_categorical("kd_weight", rrd.KD_WEIGHTS)
    return replace(
        base,
        loss=loss,
        kd_weight=kd_weight,
        kd_temperature=rrd.kd_temperature(trial) if kd_weight else base.kd_temperature,
    )

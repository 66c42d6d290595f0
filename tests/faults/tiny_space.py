"""The smallest search that still is one: its trials take a second or two."""

from dataclasses import replace
from typing import Any

import optuna

from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig

BASE = TrialConfig(
    data=DataConfig(name="digits", image_size=16, held_out=0.1),
    teacher=TeacherConfig(architecture="resnet8", epochs=1),
    student="resnet8",
    loss=RRD.Config(queue_size=64, projection_dim=16),
    batch_size=128,
    epochs=4,
)
START: dict[str, dict[str, Any]] = {"published": {"loss.student_temperature": 0.04, "loss.weight": 1.0}}
TRIALS = 20


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    assert isinstance(base.loss, RRD.Config)
    temperature = trial.suggest_float("loss.student_temperature", 0.02, 0.5, log=True)
    weight = trial.suggest_float("loss.weight", 0.1, 2.0)
    return replace(base, loss=replace(base.loss, student_temperature=temperature, weight=weight))

"""Which RRD is best for a teacher and a student: the published ones, or one in between? May KD stand beside it?

All that the method leaves open is searched. The other spaces take single questions from here.
"""

from dataclasses import replace
from typing import Any

import optuna

from trainables.config import (
    GENTLY_TRAINED,
    RRD,
    DataConfig,
    OptimizerConfig,
    TeacherConfig,
    TrialConfig,
    embedding_dim,
)

BASE = TrialConfig(
    data=DataConfig(name="cifar100"),
    teacher=TeacherConfig(architecture="resnet32x4", epochs=240),
    student="resnet8x4",
    epochs=240,
)

# arXiv 2407.12073 version 2, and the authors' later code. The learning rate is the base's.
VERSION_2: dict[str, Any] = {
    "loss.student_temperature": 0.04,
    "loss.teacher_temperature": 0.10,
    "loss.enqueue": "after",
    "loss.queue_size": 16384,
    "loss.projection_dim": 128,
    "loss.teacher_projection": "random",
    "loss.student_projection": "linear",
    "loss.weight": 1.0,
    "kd_weight": 0.0,
    "ce_weight": 1.0,
}
LATER_VERSION: dict[str, Any] = VERSION_2 | {
    "loss.student_temperature": 0.10,
    "loss.teacher_temperature": 0.02,
    "loss.enqueue": "before",
}
WITH_KD: dict[str, Any] = {"kd_weight": 1.0, "kd_temperature": 4.0}

START: dict[str, dict[str, Any]] = {
    "version 2": VERSION_2,
    "later version": LATER_VERSION,
    "version 2 + KD": VERSION_2 | WITH_KD,
}
REFERENCES: dict[str, dict[str, Any]] = {
    "KD alone": {"loss.weight": 0.0, "ce_weight": 1.0, **WITH_KD},
    "student alone": {"loss.weight": 0.0, "ce_weight": 1.0, "kd_weight": 0.0},
}
TRIALS = 100

QUEUE_SIZES = (1024, 2048, 4096, 8192, 16384, 32768)  # beyond an epoch's images, a queue holds images twice
KD_WEIGHTS = (0.0, 0.3, 1.0, 3.0)  # a category, because 0 has no place on a logarithmic range
LEARNING_RATES = (0.01, 0.2)
GENTLE_LEARNING_RATES = (0.001, 0.02)


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = temperatures(trial, rrd_of(base))
    loss = queue(trial, loss)
    loss = projections(trial, loss, embedding_dim(base.teacher.architecture))
    loss = replace(loss, weight=rrd_weight(trial))
    kd_weight = trial.suggest_categorical("kd_weight", KD_WEIGHTS)
    return replace(
        base,
        loss=loss,
        kd_weight=kd_weight,
        kd_temperature=kd_temperature(trial) if kd_weight else base.kd_temperature,
        ce_weight=trial.suggest_float("ce_weight", 0.1, 1.0),
        optimizer=learning_rate(trial, base),
    )


def rrd_of(base: TrialConfig) -> RRD.Config:
    """The base's loss. ValueError where it is another method's."""
    if not isinstance(base.loss, RRD.Config):
        raise ValueError(f"loss.name must be rrd for this space, got {base.loss.name!r}")
    return base.loss


def temperatures(trial: optuna.Trial, loss: RRD.Config) -> RRD.Config:
    """With teacher temperatures of 0.2 and more, all neighbours look alike."""
    return replace(
        loss,
        student_temperature=trial.suggest_float("loss.student_temperature", 0.02, 0.3, log=True),
        teacher_temperature=trial.suggest_float("loss.teacher_temperature", 0.01, 0.2, log=True),
    )


def queue(trial: optuna.Trial, loss: RRD.Config) -> RRD.Config:
    return replace(loss, queue_size=trial.suggest_categorical("loss.queue_size", QUEUE_SIZES), enqueue=order(trial))


def order(trial: optuna.Trial) -> str:
    return trial.suggest_categorical("loss.enqueue", ("after", "before"))


def projections(trial: optuna.Trial, loss: RRD.Config, teacher_dim: int) -> RRD.Config:
    """The identity projection has the teacher's own dimensions, so none are suggested; pca has at most as many."""
    kind = trial.suggest_categorical("loss.teacher_projection", ("random", "identity", "pca"))
    most = min(512, teacher_dim) if kind == "pca" else 512
    dim = teacher_dim if kind == "identity" else trial.suggest_int("loss.projection_dim", 32, most, log=True)
    student_kind = trial.suggest_categorical("loss.student_projection", ("linear", "mlp"))
    return replace(loss, teacher_projection=kind, projection_dim=dim, student_projection=student_kind)


def rrd_weight(trial: optuna.Trial) -> float:
    """The gradient also goes with 1 / student_temperature, hence the wide range."""
    return trial.suggest_float("loss.weight", 0.05, 10.0, log=True)


def kd_temperature(trial: optuna.Trial) -> float:
    return trial.suggest_float("kd_temperature", 1.0, 10.0, log=True)


def learning_rate(trial: optuna.Trial, base: TrialConfig) -> OptimizerConfig:
    low, high = GENTLE_LEARNING_RATES if base.student in GENTLY_TRAINED else LEARNING_RATES
    rate = trial.suggest_float("optimizer.learning_rate", low, high, log=True)
    return replace(base.optimizer, learning_rate=rate)

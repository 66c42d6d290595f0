"""The space that both sides of ``search.py`` search: no published points and no references, which only one would run.

The plain recipe knows one order of enqueueing, so that is not searched.
"""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import RRD, TrialConfig

STUDENT_TEMPERATURES = (0.02, 0.3)
TEACHER_TEMPERATURES = (0.01, 0.2)
RRD_WEIGHTS = (0.05, 10.0)

BASE = TrialConfig(loss=RRD.Config(enqueue="before"))


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = replace(
        rrd.rrd_of(base),
        student_temperature=trial.suggest_float("loss.student_temperature", *STUDENT_TEMPERATURES, log=True),
        teacher_temperature=trial.suggest_float("loss.teacher_temperature", *TEACHER_TEMPERATURES, log=True),
        weight=trial.suggest_float("loss.weight", *RRD_WEIGHTS, log=True),
    )
    kd_weight = trial.suggest_categorical("kd_weight", rrd.KD_WEIGHTS)
    return replace(base, loss=loss, kd_weight=kd_weight, optimizer=rrd.learning_rate(trial, base))

"""The tiny space, whose function fails for trial 7 of a search, and for no sample that only tries it."""

import optuna
import tiny_space

from trainables.config import TrialConfig

BASE, START, TRIALS = tiny_space.BASE, tiny_space.START, tiny_space.TRIALS


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    config = tiny_space.space(trial, base)
    if trial.number == 7 and trial.study.study_name == "tiny":
        raise KeyError("a mistake of the space")
    return config

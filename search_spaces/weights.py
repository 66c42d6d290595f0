"""How much should each of RRD, KD and the labels count? The rest is version 2."""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import TrialConfig

FIELDS = ("loss.weight", "kd_weight", "ce_weight")
BASE = rrd.BASE
START = {
    "version 2": {name: rrd.VERSION_2[name] for name in FIELDS},
    "version 2 + KD": {name: rrd.VERSION_2[name] for name in FIELDS} | rrd.WITH_KD,
}
REFERENCES = {"later version": rrd.LATER_VERSION, **rrd.REFERENCES}  # its temperatures are outside of this space
TRIALS = 40


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    kd_weight = trial.suggest_categorical("kd_weight", rrd.KD_WEIGHTS)
    return replace(
        base,
        loss=replace(rrd.rrd_of(base), weight=rrd.rrd_weight(trial)),
        kd_weight=kd_weight,
        kd_temperature=rrd.kd_temperature(trial) if kd_weight else base.kd_temperature,
        ce_weight=trial.suggest_float("ce_weight", 0.1, 1.0),
    )

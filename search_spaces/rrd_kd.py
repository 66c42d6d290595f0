"""How are RRD and KD best combined? The same as ``rrd``, with KD always on and its weight free."""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import TrialConfig, embedding_dim

BASE = replace(rrd.BASE, kd_weight=1.0)
START = {
    "version 2 + KD": rrd.VERSION_2 | rrd.WITH_KD,
    "later version + KD": rrd.LATER_VERSION | rrd.WITH_KD,
}
REFERENCES = {"version 2": rrd.VERSION_2, "later version": rrd.LATER_VERSION, **rrd.REFERENCES}
TRIALS = 100


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = rrd.temperatures(trial, rrd.rrd_of(base))
    loss = rrd.queue(trial, loss)
    loss = rrd.projections(trial, loss, embedding_dim(base.teacher.architecture))
    loss = replace(loss, weight=rrd.rrd_weight(trial))
    return replace(
        base,
        loss=loss,
        kd_weight=trial.suggest_float("kd_weight", 0.1, 5.0, log=True),
        kd_temperature=rrd.kd_temperature(trial),
        ce_weight=trial.suggest_float("ce_weight", 0.1, 1.0),
        optimizer=rrd.learning_rate(trial, base),
    )

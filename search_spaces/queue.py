"""How many past teacher embeddings are worth keeping, and should the batch be among them? The rest is version 2."""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import TrialConfig

FIELDS = ("loss.queue_size", "loss.enqueue")
BASE = rrd.BASE
START = {"version 2": {name: rrd.VERSION_2[name] for name in FIELDS}}
REFERENCES = {"later version": rrd.LATER_VERSION, **rrd.REFERENCES}  # its temperatures are outside of this space
TRIALS = len(rrd.QUEUE_SIZES) * 2  # all of them


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    return replace(base, loss=rrd.queue(trial, rrd.rrd_of(base)))

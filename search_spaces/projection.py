"""Into what space should embeddings be projected before they are compared? The rest is version 2.

The published teacher projection is random and never trained; identity and pca keep what the teacher's embedding holds.
"""

from dataclasses import replace

import optuna

from search_spaces import rrd
from trainables.config import TrialConfig, embedding_dim

FIELDS = ("loss.teacher_projection", "loss.projection_dim", "loss.student_projection")
BASE = rrd.BASE
START = {"version 2": {name: rrd.VERSION_2[name] for name in FIELDS}}
REFERENCES = {"later version": rrd.LATER_VERSION, **rrd.REFERENCES}  # it differs outside of this space only
TRIALS = 40


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    loss = rrd.projections(trial, rrd.rrd_of(base), embedding_dim(base.teacher.architecture))
    return replace(base, loss=loss)

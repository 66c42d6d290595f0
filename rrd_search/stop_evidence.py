"""Can the early stops be trusted? How well the order of trials at a rung agrees with the order at their end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rrd_search.trial_records import TrialRecord

FEWEST = 3  # trials that have an order worth the name


@dataclass(frozen=True)
class RungEvidence:
    """Of the searched trials that ran to their end: how many were compared after ``epoch``, and the rank correlation
    of what was compared there with their last accuracy; None for fewer than three, or where all are equal. Most of
    them are survivors, which are more alike than all trials: it errs on the low side."""

    epoch: int
    trials: int
    rank_correlation: float | None


def rung_evidence(trials: Sequence[TrialRecord]) -> list[RungEvidence]:
    """By rung, in the order of their epochs. References, which are no competitors, do not count."""
    finished = [trial for trial in trials if trial.state == "complete" and not trial.reference]
    evidence = []
    for epoch in sorted({epoch for trial in trials if not trial.reference for epoch in trial.rungs}):
        pairs = [(trial.rungs[epoch], trial.value or 0.0) for trial in finished if epoch in trial.rungs]
        evidence.append(RungEvidence(epoch, len(pairs), rank_correlation(pairs)))
    return evidence


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's: the correlation of the ranks, equal values sharing the mean of theirs. None for fewer than three
    pairs, or where one side is all equal."""
    finite = np.array([pair for pair in pairs if np.isfinite(pair).all()])  # [N, 2]
    if len(finite) < FEWEST:
        return None
    first, second = (_ranks(side) for side in finite.T)
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def best_audited(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Of the trials that would have been stopped but ran to their end, the one that ended highest."""
    audited = [trial for trial in trials if trial.audited is not None and trial.state == "complete"]
    return max(audited, key=lambda trial: trial.value or 0.0, default=None)


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1; [N] to [N]."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]

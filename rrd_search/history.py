"""What a sampler is shown of a long search, its best and its latest trials, so that no proposal costs ever more."""

import heapq
import math
from collections.abc import Container, Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

BEST = 25  # as many as TPE ever calls good
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Bounded(BaseSampler):
    """Lets another sampler see at most ``most`` ended trials: the ``BEST`` and, of the others, the latest by number.

    TPE then still knows all good trials, and judges what is usual by the latest, which weigh most with it anyway. What
    it sees depends only on the trials, so that a resumed search sees the same. It is read once for each proposal.
    """

    def __init__(self, sampler: BaseSampler, most: int) -> None:
        assert most > BEST, f"{most} trials are too few to judge others by"
        self._sampler, self._most = sampler, most
        self._view: optuna.Study | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The first that Optuna asks for each proposal."""
        self._view = _View(study, shown(study.get_trials(deepcopy=False), self._most))
        return self._sampler.infer_relative_search_space(self._view, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._view or study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._view or study, trial, param_name, param_distribution)


class _View(optuna.Study):
    """A study that holds some of another's trials, all others' data being the same."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._shown = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


def shown(trials: Iterable[FrozenTrial], most: int) -> list[FrozenTrial]:
    """All that run, and of those that ran at most ``most``; by number. None that failed."""
    running, ended = [], []
    for trial in trials:
        if trial.state in ENDED:
            ended.append(trial)
        elif trial.state == TrialState.RUNNING:
            running.append(trial)
    if len(ended) > most:
        best = heapq.nsmallest(BEST, ended, key=_rank)
        known = {trial.number for trial in best}
        ended = best + [trial for trial in ended if trial.number not in known][-(most - BEST) :]
    return sorted([*ended, *running], key=lambda trial: trial.number)


def _rank(trial: FrozenTrial) -> tuple[float, float]:
    """As TPE ranks: complete trials by their value, then those that were stopped, the latest stopped first."""
    if trial.state == TrialState.COMPLETE:
        return -math.inf, -(trial.value or 0.0)
    epoch, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return -epoch, math.inf if math.isnan(value) else -value

"""Which trials end before their last epoch: Tune's own schedulers on our ``epoch`` and ``val_accuracy``, unchanged."""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

METRIC = "val_accuracy"
REDUCTION = 3  # of three trials at a rung one goes on
SPARED = "spared"  # in a trial's Tune config: "point" (in the space: its curve counts) or "reference" (it does not)


def _asha(epochs: int) -> TrialScheduler:
    """Rungs at about a ninth and a third of the epochs."""
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=epochs,
        grace_period=_grace(epochs),
        reduction_factor=REDUCTION,
    )


def _hyperband(epochs: int) -> TrialScheduler:
    """Hyperband's brackets, run asynchronously: a trial never waits for others while it holds a place."""
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=epochs,
        grace_period=_grace(epochs),
        reduction_factor=REDUCTION,
        brackets=3,
    )


def _median(epochs: int) -> TrialScheduler:
    return MedianStoppingRule(
        time_attr="epoch", metric=METRIC, mode="max", grace_period=_grace(epochs), min_samples_required=3
    )


def _none(epochs: int) -> TrialScheduler:
    return FIFOScheduler()


SCHEDULERS: dict[str, Callable[[int], TrialScheduler]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": _none,
}


def _grace(epochs: int) -> int:
    return max(1, round(epochs / REDUCTION**2))


class Sparing(FIFOScheduler):
    """Asks another scheduler, but lets published points and references run to their end: they are compared with the
    winner, and a value from half way would say nothing."""

    def __init__(self, inner: TrialScheduler) -> None:
        super().__init__()
        self.inner = inner
        self._stopped: set[str] = set()  # points that the inner scheduler has done with

    @property
    def metric(self) -> str:
        return METRIC

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if _spared(trial) != "reference":
            self.inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if _spared(trial) == "reference" or trial.trial_id in self._stopped:
            return str(TrialScheduler.CONTINUE)
        decision = str(self.inner.on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP and _spared(trial):
            self._stopped.add(trial.trial_id)
            return str(TrialScheduler.CONTINUE)
        # A paused trial would wait with nothing but its last checkpoint; the median rule only wants more samples first.
        return str(TrialScheduler.CONTINUE) if decision == TrialScheduler.PAUSE else decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if _spared(trial) != "reference":
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if _spared(trial) != "reference":
            self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if _spared(trial) != "reference":
            self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The newest that waits: it takes the process that has just become free. The oldest, which Tune's own
        schedulers choose, would take it too, and the process that is being started for it would be ended; where
        trials are shorter than that start, most processes would never get to their first trial."""
        waiting = (trial for trial in reversed(tune_controller.get_trials()) if trial.status == Trial.PENDING)
        return next(waiting, None)


def _spared(trial: Trial) -> str:
    return str(trial.config.get(SPARED, ""))

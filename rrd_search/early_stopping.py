"""Which trials end before their last epoch: Tune's own schedulers, unchanged, asked epoch by epoch.

ASHA and Hyperband compare the averaged students of the rung epochs; their time is the rung's place, so that rungs may
lie anywhere. The median rule reads the accuracy of every epoch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig
from trainables.rungs import rungs

METRIC = "val_accuracy"
RUNG_METRIC = "averaged_val_accuracy"
REDUCTION = 3  # of three trials at a rung one goes on
MOST_RUNGS = 3  # that ``rungs`` places
SPARED = "spared"  # in a trial's Tune config: "point" (in the space: its curve counts) or "reference" (it does not)
RARELY = 3  # at most every third stop is audited

Metrics = dict[str, float]


@dataclass(frozen=True)
class Known:
    """A trial as Tune's schedulers know it here: by the id that it keeps over restarts of the search."""

    trial_id: str


class Judge(Protocol):
    """A scheduler of Tune's, fed with the epochs of trials in their order."""

    def rungs(self, config: TrialConfig) -> tuple[int, ...]:
        """The epochs after which it wants the averaged student of a trial."""

    def stops(self, controller: Any, trial: Known, metrics: Metrics, rungs: Sequence[int]) -> bool:
        """Whether the trial is to end after this epoch. It is not asked again for a trial that was to end."""

    def remember(self, controller: Any, record: TrialRecord) -> int:
        """Take a trial as far as earlier processes brought it, without judging it again; up to which epoch."""


class _AtRungs:
    """``AsyncHyperBandScheduler``. It is told the times 1, eta, eta^2, ... for the first, second, third rung, ..."""

    def __init__(self, brackets: int) -> None:
        self._added: set[str] = set()
        self._inner = AsyncHyperBandScheduler(
            time_attr="time",
            metric=RUNG_METRIC,
            mode="max",
            max_t=2 * REDUCTION ** (MOST_RUNGS - 1),  # behind the last rung, before there would be another
            grace_period=1,
            reduction_factor=REDUCTION,
            brackets=brackets,
        )

    def rungs(self, config: TrialConfig) -> tuple[int, ...]:
        return rungs(config)

    def stops(self, controller: Any, trial: Any, metrics: Metrics, rungs: Sequence[int]) -> bool:
        if metrics["epoch"] not in rungs or RUNG_METRIC not in metrics:
            return False
        if trial.trial_id not in self._added:
            self._added.add(trial.trial_id)
            with _numpy_seeded(trial.trial_id):  # which draws the bracket: the same one after a restart
                self._inner.on_trial_add(controller, trial)
        told = {"time": REDUCTION ** list(rungs).index(int(metrics["epoch"])), RUNG_METRIC: metrics[RUNG_METRIC]}
        return bool(self._inner.on_trial_result(controller, trial, told) == TrialScheduler.STOP)

    def remember(self, controller: Any, record: TrialRecord) -> int:
        for epoch, value in record.rungs.items():
            if record.audited is None or epoch <= record.audited:
                told = {"epoch": epoch, RUNG_METRIC: value}
                stops = self.stops(controller, Known(record.trial_id), told, self.rungs(record.config))
                if stops and record.point:  # it was not compared any more, though it ran on
                    break
        return max(record.rungs, default=0)


class _EveryEpoch:
    """``MedianStoppingRule`` on the accuracy of every epoch."""

    def __init__(self, epochs: int) -> None:
        self._inner = MedianStoppingRule(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            grace_period=max(1, round(epochs / REDUCTION**2)),
            min_samples_required=3,
        )

    def rungs(self, config: TrialConfig) -> tuple[int, ...]:
        return ()

    def stops(self, controller: Any, trial: Any, metrics: Metrics, rungs: Sequence[int]) -> bool:
        # Where it would pause a trial, it only wants more samples first; a paused one would wait with nothing but its
        # last checkpoint.
        return bool(self._inner.on_trial_result(controller, trial, metrics) == TrialScheduler.STOP)

    def remember(self, controller: Any, record: TrialRecord) -> int:
        known: Any = Known(record.trial_id)
        for epoch, value in record.curve.items():
            self._inner.on_trial_complete(controller, known, {"epoch": epoch, METRIC: value})  # which only keeps it
        return record.epochs


class _Never:
    def rungs(self, config: TrialConfig) -> tuple[int, ...]:
        return ()

    def stops(self, controller: Any, trial: Known, metrics: Metrics, rungs: Sequence[int]) -> bool:
        return False

    def remember(self, controller: Any, record: TrialRecord) -> int:
        return record.epochs


SCHEDULERS: dict[str, Callable[[int], Judge]] = {  # by name, called with a trial's epochs
    "asha": lambda epochs: _AtRungs(brackets=1),
    "hyperband": lambda epochs: _AtRungs(brackets=3),  # run asynchronously: a trial never waits while it holds a place
    "median": _EveryEpoch,
    "none": lambda epochs: _Never(),
}


class Audits:
    """Which stops are not carried out, so that one sees what they would have missed: ``wanted`` of them, spread over
    a search of ``trials``. Those of earlier processes, in ``records``, count; ``tell`` hears of a new one.
    """

    def __init__(
        self, wanted: int, trials: int, records: Sequence[TrialRecord], tell: Callable[[str, int], None]
    ) -> None:
        audited = {record.trial_id for record in records if record.audited is not None}
        self._left = wanted - len(audited)
        self._stops = sum(record.state == "pruned" or record.trial_id in audited for record in records)
        self._every = max(RARELY, trials // (2 * max(wanted, 1)))  # about half of the trials are stopped, or more
        self._tell = tell

    def takes(self, trial_id: str, epoch: int) -> bool:
        """Whether the trial, which would end after ``epoch``, is to run on."""
        place, self._stops = self._stops % self._every, self._stops + 1
        if self._left <= 0 or place != self._every // 2:
            return False
        self._left -= 1
        self._tell(trial_id, epoch)
        return True


class Sparing(FIFOScheduler):
    """Asks a judge, but lets published points and references run to their end: they are compared with the winner, and
    a value from half way would say nothing. So it does with the audited. ``records``: trials of earlier processes."""

    def __init__(self, judge: Judge, audits: Audits, records: Sequence[TrialRecord] = ()) -> None:
        super().__init__()
        self._judge, self._audits = judge, audits
        self._heard: dict[str, int] = {}  # the last epoch, by trial id
        self._passed = {record.trial_id for record in records if record.audited is not None}  # were to be stopped
        for record in records:
            self._heard[record.trial_id] = judge.remember(None, record)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its parts; a search resumes from its study

    @property
    def metric(self) -> str:
        return METRIC

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Any number of epochs, in ``result["curve"]``; a resumed trial's report may bring some that were heard."""
        epoch = self._stopped_after(tune_controller, trial, result)
        if epoch is None:
            return str(TrialScheduler.CONTINUE)
        trial_id = str(trial.config["trial_id"])
        self._passed.add(trial_id)  # no more is asked of it: Tune tells the last report of a stopped trial once more
        spared = trial.config.get(SPARED) or self._audits.takes(trial_id, epoch)
        return str(TrialScheduler.CONTINUE if spared else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The judge has not heard the last report of a trial that ran to its end."""
        self._stopped_after(tune_controller, trial, result)

    def _stopped_after(self, controller: Any, trial: Trial, result: dict[str, Any]) -> int | None:
        """The first of the new epochs after which the judge stops the trial."""
        trial_id = str(trial.config["trial_id"])
        if trial.config.get(SPARED) == "reference" or trial_id in self._passed:
            return None
        for metrics in result.get("curve", ()):
            epoch = int(metrics["epoch"])
            if epoch <= self._heard.get(trial_id, 0):
                continue
            self._heard[trial_id] = epoch
            if self._judge.stops(controller, Known(trial_id), metrics, trial.config["rungs"]):
                return epoch
        return None

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The newest that waits: it takes the process that has just become free. The oldest, which Tune's own
        schedulers choose, would take it too, and the process that is being started for it would be ended; where
        trials are shorter than that start, most processes would never get to their first trial."""
        waiting = (trial for trial in reversed(tune_controller.get_trials()) if trial.status == Trial.PENDING)
        return next(waiting, None)


@contextmanager
def _numpy_seeded(text: str) -> Iterator[None]:
    """NumPy's own generator, which Tune draws from, as this text has it; afterwards as it was."""
    state = np.random.get_state()
    np.random.seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))
    try:
        yield
    finally:
        np.random.set_state(state)

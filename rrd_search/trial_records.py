"""What a search knows of its trials: ``Proposal``, a config to run, and ``TrialRecord``, how it went."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from trainables.config import TrialConfig

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
REFERENCE_PREFIX = "ref-"


@dataclass(frozen=True)
class Proposal:
    """A trial to run. ``params``: what was suggested, by dotted field. ``point``: the START point's or reference's
    name, or None."""

    trial_id: str
    config: TrialConfig
    params: dict[str, Any]
    point: str | None

    @property
    def reference(self) -> bool:
        """Whether it runs beside the search, outside of its space."""
        return self.trial_id.startswith(REFERENCE_PREFIX)


@dataclass(frozen=True)
class TrialRecord:
    """A trial as far as it went.

    ``state`` is running, complete, pruned or failed. ``value`` is the objective after the last epoch, for a pruned
    trial after the last one it ran. ``curve`` holds the objective by epoch, ``rungs`` what was compared after rung
    epochs. ``audited``: the epoch after which it would have been stopped, had it not been let run on to see its end.
    ``reason`` tells why it failed.
    """

    trial_id: str
    state: str
    value: float | None
    epochs: int
    params: dict[str, Any]
    config: TrialConfig
    point: str | None
    reference: bool
    curve: dict[int, float]
    rungs: dict[int, float]
    audited: int | None
    reason: str | None
    started: datetime | None
    ended: datetime | None


def searched_id(number: int) -> str:
    return f"{number:05d}"


def reference_id(name: str) -> str:
    return REFERENCE_PREFIX + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def id_of(trial: FrozenTrial, reference: bool) -> str:
    return reference_id(trial.user_attrs["point"]) if reference else searched_id(trial.number)


def is_kept(trial: FrozenTrial) -> bool:
    """Whether it is a trial to run, not a duplicate, an invalid combination, or one that waits to be proposed."""
    return trial.state in STATES and "config" in trial.user_attrs


def proposal_of(trial: FrozenTrial, reference: bool) -> Proposal:
    return Proposal(
        trial_id=id_of(trial, reference),
        config=TrialConfig.from_dict(trial.user_attrs["config"]),
        params=dict(trial.params),
        point=trial.user_attrs.get("point"),
    )


def rungs_of(trial: FrozenTrial) -> dict[int, float]:
    """By epoch, ascending; the study's storage keeps keys as text."""
    by_epoch = {int(epoch): float(value) for epoch, value in trial.user_attrs.get("rungs", {}).items()}
    return dict(sorted(by_epoch.items()))


def record_of(trial: FrozenTrial, reference: bool) -> TrialRecord:
    told = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return TrialRecord(
        trial_id=id_of(trial, reference),
        state=STATES[trial.state],
        value=trial.value if told else None,
        epochs=max(trial.intermediate_values, default=0),
        params=dict(trial.params),
        config=TrialConfig.from_dict(trial.user_attrs["config"]),
        point=trial.user_attrs.get("point"),
        reference=reference,
        curve=dict(sorted(trial.intermediate_values.items())),
        rungs=rungs_of(trial),
        audited=trial.user_attrs.get("audited_at_epoch"),
        reason=trial.user_attrs.get("reason"),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
    )

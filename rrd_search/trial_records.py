"""What a search knows of its trials: ``Proposal``, a config to run, and ``TrialRecord``, how it went."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from rrd_search.marks import CURVE, EARLIER, REFERENCE_PREFIX, reference_id, searched_id

if TYPE_CHECKING:  # importing torch takes seconds, which those who only read trials do not wait for
    from trainables.config import TrialConfig

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


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
    ``reason`` tells why it failed, ``earlier`` why it is of an earlier space and not compared any more.
    """

    trial_id: str
    state: str
    value: float | None
    epochs: int
    params: dict[str, Any]
    plain_config: dict[str, Any]
    point: str | None
    reference: bool
    curve: dict[int, float]
    rungs: dict[int, float]
    audited: int | None
    reason: str | None
    earlier: str | None = None

    @cached_property
    def config(self) -> TrialConfig:
        from trainables.config import TrialConfig

        return TrialConfig.from_dict(self.plain_config)


def free_id(wanted: str, taken: Container[str]) -> str:
    """``wanted``, or with the first number behind it that makes it a new one."""
    number, free = 1, wanted
    while free in taken:
        number += 1
        free = f"{wanted}-{number}"
    return free


def id_of(trial: FrozenTrial, reference: bool) -> str:
    """References that run again in another space have an id of their own."""
    if not reference:
        return searched_id(trial.number)
    return str(trial.user_attrs.get("trial_id") or reference_id(trial.user_attrs["point"]))


def is_kept(trial: FrozenTrial) -> bool:
    """Whether it is a trial to run, not a duplicate, an invalid combination, or one that waits to be proposed."""
    return trial.state in STATES and "config" in trial.user_attrs


def is_present(trial: FrozenTrial) -> bool:
    """Whether it is a trial of the space as it is now."""
    return is_kept(trial) and EARLIER not in trial.user_attrs


def proposal_of(trial: FrozenTrial, reference: bool) -> Proposal:
    from trainables.config import TrialConfig

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


def ending_of(trial: FrozenTrial) -> tuple[str, float | None, dict[str, Any]]:
    """State, value and params; those of an earlier space Optuna knows as failed, without params."""
    if (known := trial.user_attrs.get(EARLIER)) is not None:
        return known["state"], known["value"], known["params"]
    told = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return STATES[trial.state], trial.value if told else None, dict(trial.params)


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """The objective by epoch, ascending."""
    copied = {int(epoch): float(value) for epoch, value in trial.user_attrs.get(CURVE, {}).items()}
    return dict(sorted({**copied, **trial.intermediate_values}.items()))


def record_of(trial: FrozenTrial, reference: bool) -> TrialRecord:
    state, value, params = ending_of(trial)
    return TrialRecord(
        trial_id=id_of(trial, reference),
        state=state,
        value=value,
        epochs=max(trial.intermediate_values, default=0),
        params=params,
        plain_config=trial.user_attrs["config"],
        point=trial.user_attrs.get("point"),
        reference=reference,
        curve=curve_of(trial),
        rungs=rungs_of(trial),
        audited=trial.user_attrs.get("audited_at_epoch"),
        reason=trial.user_attrs.get("reason"),
        earlier=trial.user_attrs.get(EARLIER, {}).get("why"),
    )

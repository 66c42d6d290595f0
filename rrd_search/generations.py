"""The Optuna studies of a search: one for each space that it had, in the same file; the last is the present one.

Optuna refuses other choices under a name that a study knows. So a changed space begins a new study, with each trial
under its old number; those that are no points of the space any more are in it as failed ones, marked ``EARLIER``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import get_all_study_names
from optuna.trial import FrozenTrial, TrialState

from rrd_search.marks import CURVE, EARLIER, HISTORY, LEFT, SPACE, generation, latest_generation
from rrd_search.trial_records import STATES, TrialRecord, curve_of, ending_of, id_of, is_kept, record_of

if TYPE_CHECKING:  # importing torch takes seconds, which those who only read trials do not wait for
    from rrd_search.space_points import Point

STATE_OF = {name: state for state, name in STATES.items()}
Fit = Callable[[FrozenTrial], "Point | str"]  # a trial as a point of the space, or why it is none


def present_study(storage: BaseStorage, name: str) -> str:
    """The name of the search's study for its present space; ``name`` where it has had one space, or none yet."""
    return generation(name, _latest(storage, name))


def next_study(storage: BaseStorage, name: str, trials: Iterable[FrozenTrial], attributes: Mapping[str, Any]) -> None:
    """Begin a study with these trials and attributes, ``SPACE`` being the last of them; it is the present one then.
    What a killed process left of one is removed first."""
    following = generation(name, _latest(storage, name) + 1)
    if following in get_all_study_names(storage):
        optuna.delete_study(study_name=following, storage=storage)
    study = optuna.create_study(storage=storage, study_name=following, direction="maximize")
    study.add_trials(trials)
    assert list(attributes)[-1] == SPACE, "what makes the study whole is set last"
    for key, value in attributes.items():
        study.set_user_attr(key, value)


def carried(trial: FrozenTrial, fit: Fit) -> FrozenTrial:
    """The trial as it is in the next study. One that was dropped, or waits to be proposed, leaves its number only."""
    if not (is_kept(trial) or HISTORY in trial.user_attrs):
        return _copy(trial, TrialState.FAIL, {})
    attributes = {name: value for name, value in trial.user_attrs.items() if name != EARLIER}
    state, value, params = ending_of(trial)
    if curve := curve_of(trial):
        attributes[CURVE] = curve
    point = fit(trial)
    if not isinstance(point, str):
        return _copy(trial, STATE_OF[state], attributes, value, point)
    if state == "running":
        state, attributes["reason"] = "failed", LEFT
    told = {"state": state, "value": value, "params": params, "why": point}
    return _copy(trial, TrialState.FAIL, {EARLIER: told, **attributes})


def reference_record(trial: FrozenTrial, earlier: Mapping[str, str]) -> TrialRecord:
    """``earlier``: what the present study says in ``EARLIER_REFERENCES``."""
    return replace(record_of(trial, reference=True), earlier=earlier.get(id_of(trial, reference=True)))


def _copy(
    trial: FrozenTrial,
    state: TrialState,
    attributes: dict[str, Any],
    value: float | None = None,
    point: Point | None = None,
) -> FrozenTrial:
    # All that samplers look at; Optuna takes a millisecond for each, so that the whole curve is an attribute.
    last = list(curve_of(trial).items())[-1:]
    return FrozenTrial(
        number=trial.number,
        state=state,
        value=None if state == TrialState.FAIL else value,
        datetime_start=trial.datetime_start or datetime.now(),
        datetime_complete=(trial.datetime_complete or datetime.now()) if state.is_finished() else None,
        params=point.params if point else {},
        distributions=point.distributions if point else {},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=dict(last),
        trial_id=-1,
    )


def _latest(storage: BaseStorage, name: str) -> int:
    ids = {study: storage.get_study_id_from_name(study) for study in get_all_study_names(storage)}
    return latest_generation(name, {study for study, key in ids.items() if SPACE in storage.get_study_user_attrs(key)})

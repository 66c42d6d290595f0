"""An Optuna storage that reads its database once: whatever is written goes there first, then into memory.

Optuna's own cache reads all trials that run anew for every proposal, so that each costs more the more of them run.
"""

import copy
import json
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState


class Remembering(BaseStorage):
    """Of a database that no other process writes to. The trials it gives are as they are then, and do not change."""

    def __init__(self, database: RDBStorage) -> None:
        self._database = database
        self._trials: dict[int, dict[int, FrozenTrial]] = {}  # by study and number; of studies that were asked for
        self._places: dict[int, tuple[int, int]] = {}  # trial -> its study and number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._of(study_id)  # before there is one that only the database knows
        trial_id = self._database.create_new_trial(study_id, template_trial)
        self._read(study_id, trial_id)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._database.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if (trial := self._changed(trial_id)) is not None:
            trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        done = self._database.set_trial_state_values(trial_id, state, values)
        if trial_id in self._places:
            self._read(self._places[trial_id][0], trial_id)  # with the time that the database gave it
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._database.set_trial_intermediate_value(trial_id, step, intermediate_value)
        if (trial := self._changed(trial_id)) is not None:
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_user_attr(trial_id, key, value)
        if (trial := self._changed(trial_id)) is not None:
            trial.user_attrs = {**trial.user_attrs, key: _as_read(value)}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._database.set_trial_system_attr(trial_id, key, value)
        if (trial := self._changed(trial_id)) is not None:
            trial.system_attrs = {**trial.system_attrs, key: _as_read(value)}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._places:
            return self._database.get_trial(trial_id)
        study_id, number = self._places[trial_id]
        trial = self._trials[study_id][number]
        return trial if trial.state.is_finished() else copy.deepcopy(trial)  # Optuna writes into one that runs

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._of(study_id).values() if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _of(self, study_id: int) -> dict[int, FrozenTrial]:
        """By number, in its order."""
        if study_id not in self._trials:
            self._trials[study_id] = {}
            for trial in self._database.get_all_trials(study_id, deepcopy=False):
                self._remember(study_id, trial)
        return self._trials[study_id]

    def _read(self, study_id: int, trial_id: int) -> None:
        self._remember(study_id, self._database.get_trial(trial_id))

    def _remember(self, study_id: int, trial: FrozenTrial) -> None:
        self._trials[study_id][trial.number] = trial
        self._places[trial._trial_id] = study_id, trial.number

    def _changed(self, trial_id: int) -> FrozenTrial | None:
        """A new state of a trial; the one that was given to others stays. None where it was never asked for."""
        if trial_id not in self._places:
            return None
        study_id, number = self._places[trial_id]
        trial = self._trials[study_id][number] = copy.copy(self._trials[study_id][number])
        return trial

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._database.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._database.delete_study(study_id)
        for trial in self._trials.pop(study_id, {}).values():
            del self._places[trial._trial_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._database.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._database.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._database.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._database.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._database.get_all_studies()

    def remove_session(self) -> None:
        self._database.remove_session()


def _as_read(value: Any) -> Any:
    """As the database gives it back."""
    return json.loads(json.dumps(value))

"""The storage that reads its database once gives what the database holds, whatever was done to it."""

import math

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from rrd_search.study_memory import Remembering


@pytest.fixture
def database(tmp_path):
    return RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


def search(storage):
    """Every kind of write: a queue, params of every kind, reports with gaps and NaN, attributes, all ends."""
    study = optuna.create_study(storage=storage, study_name="one", direction="maximize", load_if_exists=True)
    other = optuna.create_study(storage=storage, study_name="other", direction="maximize", load_if_exists=True)
    study.enqueue_trial({"x": 0.5, "kind": "b"}, user_attrs={"point": "start"})
    for number in range(8):
        trial = (other if number == 4 else study).ask()
        trial.suggest_float("x", 0.1, 1.0, log=True)
        trial.suggest_int("size", 16, 64, step=16)
        trial.suggest_categorical("kind", ["a", "b", None])
        for epoch in (1, 2, 5):
            trial.report(math.nan if number == 3 else epoch / 10, epoch)
        trial.set_user_attr("rungs", {1: 0.1, 5: (0.5, None)})
        if number % 4 != 3:
            state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 4]
            value = 0.7 if state == TrialState.COMPLETE else None
            (other if number == 4 else study).tell(trial, value, state=state)
    return study, other


def same(storage, database):
    for study_id in [study._study_id for study in database.get_all_studies()]:
        known, written = storage.get_all_trials(study_id), database.get_all_trials(study_id)
        assert list(map(repr, known)) == list(map(repr, written))  # NaN differs from itself
        for trial in known:
            assert repr(storage.get_trial(trial._trial_id)) == repr(trial)


def test_memory_is_what_the_database_holds(database):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search(Remembering(database))
    later = Remembering(database)  # of a later process
    same(later, database)
    search(later)
    same(later, database)
    assert len(database.get_all_trials(1)) == 14


def test_a_trial_that_was_given_does_not_change(database):
    storage = Remembering(database)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    given = storage.get_all_trials(study._study_id, deepcopy=False)[0]
    trial.suggest_float("x", 0, 1)
    trial.report(1.0, 1)
    assert not given.params
    assert not given.intermediate_values
    storage.get_trial(trial._trial_id).user_attrs["mine"] = 1
    same(storage, database)

"""The trials of a search as they are recorded, for those who only read: no space is needed, nothing is changed."""

from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import get_all_study_names
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from rrd_search.generations import present_study, reference_record
from rrd_search.marks import EARLIER_REFERENCES, check_owner, references_of
from rrd_search.quiet import quiet_optuna
from rrd_search.study_copy import copied
from rrd_search.study_storage import StudyStorage
from rrd_search.trial_records import TrialRecord, is_kept, record_of


def read_trials(folder: Path) -> list[TrialRecord]:
    """The search's trials in the order of their proposals, then its references; those of earlier spaces too.

    Its driver may be running: nothing is written there and nothing is locked. ValueError where no search is.
    """
    path = folder / "study.db"
    if not path.is_file():
        begun = sorted(found.parent.name for found in folder.parent.glob("*/study.db"))
        told = f"; searches there are {', '.join(begun)}" if begun else ""
        raise ValueError(f"no search called {folder.name} in {folder.parent}{told}")
    with copied(path) as copy:
        storage = StudyStorage(f"sqlite:///{copy}")
        try:
            with quiet_optuna():
                return _records(storage.optuna, folder.name)
        except (SQLAlchemyError, StorageInternalError) as error:
            raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        finally:
            storage.close()


def _records(storage: BaseStorage, name: str) -> list[TrialRecord]:
    present, references = present_study(storage, name), references_of(name)
    known = get_all_study_names(storage)
    check_owner(name, known)
    if present not in known:
        return []
    attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(present))
    records = [record_of(trial, reference=False) for trial in _kept(storage, present)]
    if references in known:
        earlier = attributes.get(EARLIER_REFERENCES, {})
        records += [reference_record(trial, earlier) for trial in _kept(storage, references)]
    return records


def _kept(storage: BaseStorage, study: str) -> list[FrozenTrial]:
    trials = storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)
    return [trial for trial in trials if is_kept(trial)]


def chosen_trial(trials: list[TrialRecord], trial_id: str | None) -> TrialRecord:
    """The complete trial with this id; where None, the searched one of the present space with the highest value, the
    earliest of equal ones. ValueError where there is none."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if trial_id is None:
        searched = [trial for trial in complete if not trial.reference and trial.earlier is None]
        if not searched:
            raise ValueError("no trial of the search has run to its end yet")
        return max(searched, key=lambda trial: trial.value or 0.0)
    found = next((trial for trial in trials if trial.trial_id == trial_id), None)
    if found is None:
        raise ValueError(f"no trial {trial_id!r}; complete trials are {_ids(complete)}")
    if found not in complete:
        raise ValueError(
            f"trial {trial_id} is {found.state} after epoch {found.epochs}: only complete ones are exported"
        )
    return found


def _ids(trials: list[TrialRecord]) -> str:
    return ", ".join(trial.trial_id for trial in trials) or "not there yet"

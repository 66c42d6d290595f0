"""The trials of a search as they are recorded, for those who only read: no space is needed, nothing is changed."""

from pathlib import Path

from optuna.study import get_all_study_names, load_study

from rrd_search.quiet import quiet_optuna
from rrd_search.study_storage import StudyStorage
from rrd_search.trial_records import TrialRecord, is_kept, record_of


def read_trials(folder: Path) -> list[TrialRecord]:
    """The search's trials in the order of their proposals, then its references. ValueError where no search is."""
    path = folder / "study.db"
    if not path.is_file():
        begun = sorted(found.parent.name for found in folder.parent.glob("*/study.db"))
        told = f"; searches there are {', '.join(begun)}" if begun else ""
        raise ValueError(f"no search called {folder.name} in {folder.parent}{told}")
    storage = StudyStorage(f"sqlite:///{path}")
    records = []
    try:
        with quiet_optuna():
            known = get_all_study_names(storage.optuna)
            for name, reference in ((folder.name, False), (f"{folder.name}-references", True)):
                if name in known:
                    study = load_study(study_name=name, storage=storage.optuna)
                    trials = study.get_trials(deepcopy=False)
                    records += [record_of(trial, reference) for trial in trials if is_kept(trial)]
    finally:
        storage.close()
    return records


def chosen_trial(trials: list[TrialRecord], trial_id: str | None) -> TrialRecord:
    """The complete trial with this id; where None, the searched one with the highest value, the earliest of equal
    ones. ValueError where there is none."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if trial_id is None:
        searched = [trial for trial in complete if not trial.reference]
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

"""Which students of a search stay on disk: those of its best complete trials and of its references."""

import shutil
from pathlib import Path

from rrd_search.optuna_searcher import Study

KEPT = 3  # complete trials whose students stay


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Of a trial, in the folder of its search."""
    return folder / "trials" / trial_id


def keep_students(folder: Path, study: Study) -> None:
    """Delete the students of complete trials that are no longer among the best; their results stay."""
    complete = [trial for trial in study.trials() if trial.state == "complete" and trial.value is not None]
    best = sorted(complete, key=lambda trial: (-(trial.value or 0), trial.trial_id))
    for trial in best[KEPT:]:
        for student in trial_folder(folder, trial.trial_id).glob("*student.safetensors"):
            student.unlink(missing_ok=True)


def forget_trial(folder: Path, trial_id: str) -> None:
    """A trial that was stopped early or failed is not resumed: its checkpoint goes."""
    shutil.rmtree(trial_folder(folder, trial_id), ignore_errors=True)


def forget_stopped(folder: Path, study: Study) -> None:
    """Once more for all of them: the workers of a stopped trial end their epoch, and may write a checkpoint after."""
    for trial in study.trials():
        if trial.state in ("pruned", "failed"):
            forget_trial(folder, trial.trial_id)

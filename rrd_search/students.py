"""Which students of a search stay on disk: those of its best complete trials and of its references."""

import shutil
from pathlib import Path

from rrd_search.optuna_searcher import Study

KEPT = 3  # complete trials whose students stay


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Of a trial, in the folder of its search."""
    return folder / "trials" / trial_id


class Students:
    """Deletes the students of complete trials that are no longer among the best; their results stay."""

    def __init__(self, folder: Path, study: Study) -> None:
        """Those of earlier processes first."""
        self._folder, self._study = folder, study
        ranked = study.ranked()
        self._kept = set(ranked[:KEPT])
        for trial_id in ranked[KEPT:]:
            self._delete(trial_id)

    def ended(self, trial_id: str) -> None:
        """A trial is complete: its students may stay, or those of one that was among the best may have to go."""
        best = set(self._study.ranked()[:KEPT])
        for loser in {trial_id, *self._kept} - best:
            self._delete(loser)
        self._kept = best

    def _delete(self, trial_id: str) -> None:
        for student in trial_folder(self._folder, trial_id).glob("*student.safetensors"):
            student.unlink(missing_ok=True)


def forget_trial(folder: Path, trial_id: str) -> None:
    """A trial that was stopped early or failed is not resumed: its checkpoint goes."""
    shutil.rmtree(trial_folder(folder, trial_id), ignore_errors=True)


def forget_stopped(folder: Path, study: Study) -> None:
    """Once more for all of them: the workers of a stopped trial end their epoch, and may write a checkpoint after."""
    for trial in study.trials():
        if trial.state in ("pruned", "failed"):
            forget_trial(folder, trial.trial_id)

"""Which students of a search stay on disk: those of its best complete trials and of its references."""

import contextlib
import shutil
from pathlib import Path

from rrd_search.optuna_searcher import Study
from trainables.mirror import Mirror
from trainables.result import STUDENTS
from trainables.worker import STACK

KEPT = 3  # complete trials whose students stay


def trial_folder(folder: Path, trial_id: str) -> Path:
    """Of a trial, in the folder of its search."""
    return folder / "trials" / trial_id


class Students:
    """Deletes the students of complete trials that are no longer among the best; their results stay."""

    def __init__(self, folder: Path, study: Study, mirror: Mirror) -> None:
        """Those of earlier processes first: what the mirror has of them was fetched, so they are all here."""
        self._folder, self._study, self._mirror = folder, study, mirror
        ranked = study.ranked()
        self._kept = set(ranked[:KEPT])
        for trial_id in ranked[KEPT:]:
            if any((trial_folder(folder, trial_id) / name).is_file() for name in STUDENTS):
                self._delete(trial_id)

    def ended(self, trial_id: str) -> None:
        """A trial is complete: its students may stay, or those of one that was among the best may have to go."""
        best = set(self._study.ranked()[:KEPT])
        for loser in {trial_id, *self._kept} - best:
            self._delete(loser)
        self._kept = best

    def _delete(self, trial_id: str) -> None:
        for name in STUDENTS:
            student = trial_folder(self._folder, trial_id) / name
            student.unlink(missing_ok=True)
            _delete_there(student, self._mirror)


def forget_trial(folder: Path, trial_id: str, mirror: Mirror) -> None:
    """A trial that was stopped early or failed is not resumed: its checkpoint goes; where it hung, that stays."""
    own = trial_folder(folder, trial_id)
    for path in own.iterdir() if own.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.name.startswith(STACK):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds a stack
        own.rmdir()
    _delete_there(own, mirror)


def forget_stopped(folder: Path, study: Study, mirror: Mirror) -> None:
    """Once more for all that have left something: the workers of a stopped trial end their epoch, and may write a
    checkpoint after."""
    left = {path.name for path in (folder / "trials").glob("*")}
    with contextlib.suppress(OSError):
        left |= mirror.folders(folder / "trials")
    for trial in study.trials():
        if trial.state in ("pruned", "failed") and trial.trial_id in left:
            forget_trial(folder, trial.trial_id, mirror)


def _delete_there(path: Path, mirror: Mirror) -> None:
    """What stays there for once takes room, and nothing else."""
    with contextlib.suppress(OSError):
        mirror.delete(path)

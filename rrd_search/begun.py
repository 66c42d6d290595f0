"""A search that was begun: whether the request goes on with it, whether it is finished, and how it closes."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from rrd_search.champion import Champion, log_champion
from rrd_search.optuna_searcher import Study
from rrd_search.record import Recorder
from rrd_search.request import Request
from rrd_search.results import show_results
from rrd_search.search_file import SearchFile
from rrd_search.space import Space
from rrd_search.space_check import check
from rrd_search.study_snapshot import SNAPSHOT, repair
from rrd_search.trial_records import TrialRecord

RECORDER_SECONDS = 60.0  # at the end, for what MLflow has not taken yet


def check_begun(known: SearchFile, options: argparse.Namespace) -> None:
    """ValueError where a search is to go on with another sampler, seed or kind of schedules than it was begun with."""
    for flag in ("sampler", "seed"):
        if getattr(known, flag) != getattr(options, flag):
            rule = f"{getattr(known, flag)}, as the search was begun with; another --name starts another search"
            raise ValueError(f"--{flag} must be {rule}, got {getattr(options, flag)}")
    if known.independent_schedules != options.independent_schedules:
        rule = "be given, as the search was begun with it"
        if options.independent_schedules:
            rule = "not be given, as the search was begun without it"
        raise ValueError(f"--independent-schedules must {rule}; another --name starts another search")


def open_study(request: Request, space: Space) -> Study:
    """ValueError where the study was begun with another space."""
    database = request.folder / "study.db"
    repair(database, request.folder / SNAPSHOT, lambda line: print(line, file=sys.stderr))
    url = f"sqlite:///{database}"
    options = request.options
    study = Study(url, request.name, space, options.sampler, options.seed, options.independent_schedules)
    if changes := study.space_changes():
        raise ValueError(
            f"search {request.name} was begun with other values of {', '.join(changes)}; "
            "give them as before, or another --name"
        )
    return study


def with_teacher(space: Space, teacher: dict[str, Any]) -> Space:
    return space.with_values({"teacher.weights": teacher["weights"]}) if teacher else space


def finished(study: Study, space: Space, trials: int) -> bool:
    """Whether all trials that are asked for have ended, and all references."""
    ended = sum(trial.state != "running" for trial in study.trials())
    references = sum(trial.state != "running" for trial in study.references())
    return not study.unfinished() and ended >= trials and references >= len(check(space).references)


def send_rest(recorder: Recorder, request: Request, study: Study, console: Console) -> None:
    """Wait until MLflow has everything, then give it the best student; say what it did not take."""
    if recorder.unsent():
        console.print("sending the last records to MLflow ...", highlight=False)
    if missing := recorder.close(RECORDER_SECONDS):
        console.print(missing, markup=False, highlight=False, soft_wrap=True)
        return
    if (best := study.best()) is not None:
        _keep_champion(best, request, console)


def _keep_champion(best: TrialRecord, request: Request, console: Console) -> None:
    """The best student as a registered model of MLflow; once for each student and store."""
    note = request.folder / "champion.json"
    now = {"trial_id": best.trial_id, "store": hashlib.sha256(request.mlflow_uri.encode()).hexdigest()[:16]}
    if note.is_file() and json.loads(note.read_text()) == now:
        return
    import numpy as np

    from rrd_search.export import export_trial  # PyTorch's export takes a second to import
    from rrd_search.student_program import read_student

    console.print(f"keeping the best student, of trial {best.trial_id}, in MLflow ...", highlight=False)
    size = best.config.data.image_size
    try:
        files = export_trial(request.folder, request.places.storage, best, request.folder / "champion")
        champion = Champion(
            trial_id=best.trial_id,
            model=read_student(files),
            input_example=np.zeros((2, 3, size, size), np.uint8),
            files=files,
            name=request.name,
        )
        log_champion(request.mlflow_uri, request.name, champion)
    except (RuntimeError, ValueError, OSError) as error:  # the results are shown all the same
        console.print(f"{error}; the next start tries again", markup=False, highlight=False, soft_wrap=True)
    else:
        note.write_text(json.dumps(now))


def close(console: Console, request: Request, study: Study, teacher: dict[str, Any]) -> None:
    """The tables, where to look, and what to do next."""
    show_results(console, request.name, study, teacher)
    own = request.mlflow_uri.startswith("sqlite:")
    where = f"make ui STORAGE={shown(request.places.storage)}" if own else request.mlflow_uri
    console.print(f"look:  {where}   (experiment {request.name})", highlight=False)
    if study.best() is not None:
        storage = shown(request.places.storage)
        command = f"python -m rrd_search.export --name {request.name} --storage {storage} --output best"
        console.print(f"next:  {command}\n       python -m rrd_search.train best", highlight=False, soft_wrap=True)


def shown(path: Path) -> Path:
    """Relative to where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

"""A search that was begun: whether the request goes on with it, whether it is finished, and how it closes."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rrd_search.champion import Champion, log_champion
from rrd_search.command import default_tracking_uri
from rrd_search.marks import LEFT
from rrd_search.optuna_searcher import Study
from rrd_search.progress import say
from rrd_search.record import PATIENCE_SECONDS, Recorder
from rrd_search.request import Request
from rrd_search.results import show_results
from rrd_search.search_file import SearchFile
from rrd_search.space import Space
from rrd_search.space_change import SpaceChange
from rrd_search.space_check import check
from rrd_search.stop_evidence import rung_evidence
from rrd_search.students import forget_trial
from rrd_search.study_snapshot import SNAPSHOT, repair
from rrd_search.tracking import shown_uri, store_id
from rrd_search.trial_records import TrialRecord
from rrd_search.warm_start import warm_start
from trainables.mirror import Mirror
from trainables.teacher import stored_teacher, teacher_recipe
from trainables.whole_file import write_whole

HURRIED_SECONDS = 2.0  # after a signal, whose sender may kill what is not gone in ten; the next start sends the rest


def check_begun(known: SearchFile, options: argparse.Namespace) -> None:
    """ValueError where a search is to go on with another sampler, seed, kind of schedules or warm start than it was
    begun with."""
    for flag in ("sampler", "seed"):
        if getattr(known, flag) != getattr(options, flag):
            rule = f"{getattr(known, flag)}, as the search was begun with; another --name starts another search"
            raise ValueError(f"--{flag} must be {rule}, got {getattr(options, flag)}")
    if known.independent_schedules != options.independent_schedules:
        rule = "be given, as the search was begun with it"
        if options.independent_schedules:
            rule = "not be given, as the search was begun without it"
        raise ValueError(f"--independent-schedules must {rule}; another --name starts another search")
    if options.warm_start not in (None, known.warm_start):
        rule = f"{known.warm_start}, as the search was begun with"
        if known.warm_start is None:
            rule = "not given, as the search was begun without"
        raise ValueError(f"--warm-start must be {rule}; another --name starts another search")


def go_on(request: Request, known: SearchFile, console: Console) -> tuple[Request, Space, Study | None]:
    """The search that was begun, its space and its study, in which another space than before is taken.

    A changed space is told. Where it takes another teacher, which is not there yet, the study is None: see
    ``open_study``. ValueError where trials or the base do not go with it, and that was not accepted.
    """
    space = with_teacher(request.space, known.teacher)
    study = _study(request, space)
    change = SpaceChange(study)
    if change.begun_base.teacher.weights != known.teacher.get("weights"):
        study.close()  # a kill came between the two files; the teacher is stored
        return request, request.space, None
    if change:
        _accept(change, study, request, console)
    if known.space != request.options.space:
        replace(known, space=request.options.space).write(request.folder)
        Mirror(request.places).push(request.folder / "search.yaml")
    if change and teacher_recipe(change.begun_base) != teacher_recipe(space.base):
        study.close()
        return _with_new_teacher(request, space, known), request.space, None
    _take(change, study, request)
    return request, space, study


def open_study(request: Request, space: Space, console: Console) -> Study:
    """The study with this space, which was accepted where it is another than before; a new one with its history."""
    study = _study(request, space)
    _take(SpaceChange(study), study, request)
    wanted = request.options.warm_start
    if wanted is not None and study.warm_start is None:
        say(console, warm_start(study, request))
    if wanted not in (None, study.warm_start):
        raise ValueError(f"--warm-start must be {study.warm_start}, as the search was begun with, got {wanted}")
    return study


def _study(request: Request, space: Space) -> Study:
    database = request.folder / "study.db"
    repair(database, request.folder / SNAPSHOT, lambda line: print(line, file=sys.stderr))
    url = f"sqlite:///{database}"
    options = request.options
    return Study(url, request.name, space, options.sampler, options.seed, options.independent_schedules)


def _accept(change: SpaceChange, study: Study, request: Request, console: Console) -> None:
    """Tell a changed space. ValueError where it needs to be accepted, and was not."""
    say(console, f"{request.name} was begun with another space:")
    for line in change.lines:
        say(console, f"  {line}")
    known = len(study.trials()) + len(study.references())
    told = f"{len(change.unfit)} of {known} trials and references are no points of it"
    if change.unfit:
        trial_id, why = next(iter(change.unfit.items()))
        told += f" ({trial_id}: {why})"
    elif change.base:
        told = "its base is another"
    else:
        say(console, f"all {known} trials and references are points of this one too")
        return
    if not request.options.accept_changes:
        rule = "--accept-changes keeps them without comparing them, another --name starts another search"
        raise ValueError(f"the space of {request.name} has changed, {told}; {rule}")
    if change.unfit:
        say(console, f"{told}; they are kept, and not compared any more")


def _take(change: SpaceChange, study: Study, request: Request) -> None:
    if change:
        change.take()
        for trial in study.earlier():
            if trial.reason == LEFT:
                forget_trial(request.folder, trial.trial_id, Mirror(request.places))


def _with_new_teacher(request: Request, space: Space, known: SearchFile) -> Request:
    """A teacher that was given stays; another base may hold out other images, on which it is measured again."""
    options, base = request.options, space.base
    if known.teacher.get("trained_here", True) or options.teacher_checkpoint is not None:
        return request
    try:
        given = stored_teacher(base, request.places)
    except ValueError:  # of another architecture
        return request
    return replace(request, options=argparse.Namespace(**{**vars(options), "teacher_checkpoint": given}))


def with_teacher(space: Space, teacher: dict[str, Any]) -> Space:
    return space.with_values({"teacher.weights": teacher["weights"]}) if teacher else space


def finished(study: Study, space: Space, trials: int) -> bool:
    """Whether all trials that are asked for have ended, and all references."""
    ended = sum(trial.state != "running" for trial in study.trials())
    references = sum(trial.state != "running" for trial in study.references())
    return not study.unfinished() and ended >= trials and references >= len(check(space).references)


def end_search(recorder: Recorder, study: Study, whole: bool) -> None:
    """Tell what came of the search; telling it again changes nothing."""
    best = study.best()
    metrics = {"best_final_val_accuracy": best.value} if best and best.value is not None else {}
    for rung in rung_evidence(study.trials()):
        if rung.rank_correlation is not None:
            metrics[f"rank_correlation_epoch_{rung.epoch}"] = rung.rank_correlation
    tags = {"rrd.best_trial": best.trial_id} if best else {}
    recorder.end_search(metrics, tags, "complete" if whole else "stopped")


def send_rest(recorder: Recorder, request: Request, study: Study, console: Console, hurried: bool = False) -> None:
    """Wait until MLflow has everything, then give it the best student; say what it did not take. ``hurried``: wait for
    a moment, and leave the student to the next start."""
    for trial in study.earlier():
        if trial.reason == LEFT:  # with the space that it was of
            recorder.end_trial(trial.trial_id, "failed", {}, {"rrd.failure": LEFT})
    if recorder.unsent():
        say(console, "sending the last records to MLflow ...")
    if missing := recorder.close(HURRIED_SECONDS if hurried else PATIENCE_SECONDS):
        say(console, missing)
        return
    if not hurried and (best := study.best()) is not None:
        _keep_champion(best, request, console)


def _keep_champion(best: TrialRecord, request: Request, console: Console) -> None:
    """The best student as a registered model of MLflow; once for each student and store."""
    note = request.folder / "champion.json"
    now = {"trial_id": best.trial_id, "store": store_id(request.mlflow_uri)}
    if note.is_file() and note.read_text() == json.dumps(now):
        return
    import numpy as np

    from rrd_search.export import export_trial  # PyTorch's export takes a second to import
    from rrd_search.student_program import read_student

    say(console, f"keeping the best student, of trial {best.trial_id}, in MLflow ...")
    size = best.config.data.image_size
    try:
        files = export_trial(request.name, request.places, best, request.folder / "champion")
        champion = Champion(
            trial_id=best.trial_id,
            model=read_student(files),
            input_example=np.zeros((2, 3, size, size), np.uint8),
            files=files,
            name=request.name,
        )
        log_champion(request.mlflow_uri, request.name, champion)
    except (RuntimeError, ValueError, OSError) as error:  # the results are shown all the same
        say(console, f"{error}; the next start tries again")
    else:
        write_whole(note, json.dumps(now).encode())


def close(console: Console, request: Request, study: Study, teacher: dict[str, Any]) -> None:
    """The tables, where to look, and what to do next."""
    show_results(console, request.name, study, teacher)
    own = request.options.mlflow_uri is None
    where = f"make ui STORAGE={shown(request.places.storage)}" if own else shown_uri(request.mlflow_uri)
    say(console, f"look:  {where}   (experiment {request.name})")
    if study.best() is not None:
        storage = f"--storage {shlex.quote(request.options.storage)}"
        record = "" if request.options.mlflow_uri in (None, default_tracking_uri()) else f" --mlflow-uri {where}"
        say(console, f"next:  python -m rrd_search.export --name {request.name} {storage} --output best")
        say(console, f"       python -m rrd_search.train best {storage}{record}")


def shown(path: Path) -> Path:
    """Relative to where the user stands, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

"""python -m rrd_search.status NAME: what a search is doing, what came of it, and what it takes, without touching it.

Nothing is written in its folder and no lock is taken. Neither Ray nor PyTorch nor Optuna is imported, but where the
storage is at a URI, or in a folder that other machines share.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from rrd_search.command import Parser, default_storage, run_command
from rrd_search.journal import unsent_in
from rrd_search.network_folder import on_network
from rrd_search.progress import duration, percent, say
from rrd_search.search_file import read_search_file
from rrd_search.stored_search import Stored, at_uri, in_folder
from rrd_search.study_rows import Row, read_rows

BEGINNINGS = ("study.db", "search.yaml", "driver.pid")  # one of these is in a search's folder from its first moment
SHARED = ("tables", "teachers", "data")  # folders of the storage
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def main(arguments: list[str]) -> int:
    parser = Parser("-m rrd_search.status", "What a search is doing and what came of it; it is not disturbed.")
    parser.add_argument("name", help="of the search")
    parser.add_argument("--storage", default=default_storage(), help="the search's storage: a folder, or a URI")
    options = parser.parse_args(arguments)
    console = Console()
    with contextlib.ExitStack() as stack:
        folder, uri = Path(options.storage).absolute(), options.storage
        if "://" not in uri and on_network(folder):
            uri = folder.as_uri()
        stored = stack.enter_context(at_uri(uri, options.name)) if "://" in uri else in_folder(folder, options.name)
        for line in status(stored):
            say(console, line)
    return 0


def status(stored: Stored) -> Iterator[str]:
    """Line by line. ValueError where there is no such search, or its files are damaged."""
    folder = stored.folder
    if not any((folder / name).is_file() for name in BEGINNINGS):
        others = sorted({found.parent.name for name in BEGINNINGS for found in folder.parent.glob(f"*/{name}")})
        told = f"; searches there are {', '.join(others)}" if others else ""
        raise ValueError(f"no search called {folder.name} in {stored.place}{told}")
    trials = read_rows(folder) if (folder / "study.db").is_file() else []
    begun = read_search_file(folder)
    now = [trial for trial in trials if trial.earlier is None]
    yield f"{folder.name}: {stored.driver}"
    yield from _counts(now, begun.trials if begun else None)
    yield from _running([trial for trial in now if trial.state == "running"], stored.alive)
    for trial in now:
        if trial.state == "failed":
            yield f"  {trial.trial_id} failed after epoch {trial.epochs}: {trial.reason}"
    if earlier := len(trials) - len(now):
        yield f"{earlier} trials and references of an earlier space are kept, and not compared"
    yield _best(now)
    yield from _disk(stored)
    if unsent := unsent_in(folder):
        records = "1 record" if unsent == 1 else f"{unsent} records"
        yield f"MLflow has not taken {records} yet; a running search sends them, or the next start"


def _counts(trials: Sequence[Row], wanted: int | None) -> Iterator[str]:
    searched = [trial for trial in trials if not trial.reference]
    states = [trial.state for trial in searched]
    ended = len(states) - states.count("running")
    of = f" of {wanted}" if wanted else ""
    told = (
        f"{states.count('complete')} complete, {states.count('pruned')} stopped early, {states.count('failed')} failed"
    )
    yield f"{ended}{of} trials have ended: {told}"
    references = [trial.state for trial in trials if trial.reference]
    if references:
        yield f"{len(references) - references.count('running')} of {len(references)} references have ended"


def _running(trials: Sequence[Row], alive: bool | None) -> Iterator[str]:
    if trials:
        yield f"{len(trials)} run:" if alive is not False else f"{len(trials)} go on at the next start:"
    for trial in trials:
        name = f"{trial.trial_id} ({trial.point})" if trial.point else trial.trial_id
        accuracy = f", {percent(trial.accuracy)}" if trial.epochs else ""
        since = ""
        if trial.started is not None:
            seconds = (datetime.now() - trial.started).total_seconds()
            since = f", since {trial.started:%Y-%m-%d %H:%M} ({duration(seconds)})"
        yield f"  {name}: epoch {trial.epochs} of {trial.of_epochs}{accuracy}{since}"


def _best(trials: Sequence[Row]) -> str:
    complete = [trial for trial in trials if trial.state == "complete" and not trial.reference]
    if not complete:
        return "best so far: none has run to its end yet"
    best = max(complete, key=lambda trial: trial.value or 0.0)
    return f"best so far: {best.trial_id}, {percent(best.value)}" + (f" ({best.point})" if best.point else "")


def _disk(stored: Stored) -> Iterator[str]:
    own = {"checkpoints": 0, "students": 0, "study and records": 0, "other": 0}
    for path, size in stored.files(stored.folder.name):
        if "checkpoint" in path.name:
            own["checkpoints"] += size
        elif path.name.endswith("student.safetensors"):
            own["students"] += size
        elif len(path.parts) == 1:
            own["study and records"] += size
        else:
            own["other"] += size
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in own.items() if size)
    yield f"disk: {_bytes(sum(own.values()))} in {stored.place}/{stored.folder.name}" + (f" ({parts})" if parts else "")
    shared = {name: sum(size for _, size in stored.files(name)) for name in SHARED}
    if told := ", ".join(f"{name} {_bytes(size)}" for name, size in shared.items() if size):
        yield f"      shared with other searches there: {told}"


def _bytes(size: float) -> str:
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.1f} {UNITS[unit]}"


if __name__ == "__main__":
    run_command(main)

"""python -m rrd_search.status NAME: what a search is doing, what came of it, and what it takes, without touching it.

Nothing is written in its folder and no lock is taken. Neither Ray nor PyTorch nor Optuna is imported, but where the
storage is at a URI.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from rrd_search.command import Parser, run_command
from rrd_search.journal import unsent_in
from rrd_search.progress import duration, percent
from rrd_search.search_file import read_search_file
from rrd_search.study_rows import Row, read_rows

BEGINNINGS = ("study.db", "search.yaml", "driver.pid")  # one of these is in a search's folder from its first moment
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def main(arguments: list[str]) -> int:
    parser = Parser("rrd_search.status", "What a search is doing and what came of it; it is not disturbed.")
    parser.add_argument("name", help="of the search")
    parser.add_argument("--storage", default="runs", help="the search's storage: a folder, or a URI")
    options = parser.parse_args(arguments)
    folder = _folder(options.storage, options.name)
    console = Console()
    for line in status(folder):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _folder(storage: str, name: str) -> Path:
    """Of the search; where the storage is at a URI, of what could be fetched from there."""
    if "://" not in storage:
        return Path(storage).absolute() / name
    from rrd_search.storage import bring, places_of  # which imports Optuna

    places = places_of(storage)
    bring(places, name)
    return places.storage / name


def status(folder: Path) -> Iterator[str]:
    """Line by line. ValueError where there is no such search, or its files are damaged."""
    if not any((folder / name).is_file() for name in BEGINNINGS):
        others = sorted({found.parent.name for name in BEGINNINGS for found in folder.parent.glob(f"*/{name}")})
        told = f"; searches there are {', '.join(others)}" if others else ""
        raise ValueError(f"no search called {folder.name} in {folder.parent}{told}")
    trials = read_rows(folder) if (folder / "study.db").is_file() else []
    begun = read_search_file(folder)
    now = [trial for trial in trials if trial.earlier is None]
    driver = Driver(folder)
    yield f"{folder.name}: {driver.told}"
    yield from _counts(now, begun.trials if begun else None)
    yield from _running([trial for trial in now if trial.state == "running"], driver.alive)
    for trial in now:
        if trial.state == "failed":
            yield f"  {trial.trial_id} failed after epoch {trial.epochs}: {trial.reason}"
    if earlier := len(trials) - len(now):
        yield f"{earlier} trials and references of an earlier space are kept, and not compared"
    yield _best(now)
    yield from _disk(folder)
    if unsent := unsent_in(folder):
        yield f"MLflow has not taken {unsent} records yet; a running search sends them, or the next start"


class Driver:
    """Who runs a search: ``alive`` is None where that cannot be seen from this machine."""

    def __init__(self, folder: Path) -> None:
        try:
            written = (folder / "driver.pid").read_text()
        except FileNotFoundError:
            written = ""
        pid, _, host = written.strip().partition(" on ")
        here = host == os.uname().nodename
        self.alive: bool | None
        if not (pid.isdigit() and host):
            self.alive, self.told = False, "no driver runs it"
        elif not here:
            self.alive, self.told = None, f"last run by process {pid} on {host}, which cannot be seen from here"
        else:
            self.alive = holds(int(pid), folder / "driver.lock")
            self.told = f"run by process {pid} on this machine"
            if not self.alive:
                self.told = f"no driver runs it; the last was process {pid}. The same command goes on with it"


def holds(pid: int, lock: Path) -> bool:
    """Whether the process lives and has the lock's file open: asked of the system, since who tries a lock to see has
    it for a moment."""
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:  # of another user
        return True
    except FileNotFoundError:  # ended, or a system without /proc
        return not Path("/proc/self").exists() and _lives(pid)
    return any(_target(link) == os.path.realpath(lock) for link in opened)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed by now
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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


def _disk(folder: Path) -> Iterator[str]:
    own = {"checkpoints": 0, "students": 0, "study and records": 0, "other": 0}
    for path, size in _files(folder):
        if "checkpoint" in path.name:
            own["checkpoints"] += size
        elif path.name.endswith("student.safetensors"):
            own["students"] += size
        elif path.parent == folder:
            own["study and records"] += size
        else:
            own["other"] += size
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in own.items() if size)
    yield f"disk: {_bytes(sum(own.values()))} in {folder}" + (f" ({parts})" if parts else "")
    shared = {name: sum(size for _, size in _files(folder.parent / name)) for name in ("tables", "teachers", "data")}
    if told := ", ".join(f"{name} {_bytes(size)}" for name, size in shared.items() if size):
        yield f"      shared with other searches there: {told}"


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each file below and the bytes that it takes of the disk, a sparse one less than its length."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            try:
                yield path, path.lstat().st_blocks * 512
            except OSError:  # gone by now
                continue


def _bytes(size: float) -> str:
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.1f} {UNITS[unit]}"


if __name__ == "__main__":
    run_command(main)

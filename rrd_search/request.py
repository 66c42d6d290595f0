"""What a search's flags ask for: checked, and held against other drivers."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from rrd_search.flags import AUTO
from rrd_search.space import Space, load_space
from rrd_search.space_check import check
from rrd_search.storage import places_of
from rrd_search.tracking import check_tracking_uri
from trainables.mirror import SCHEME
from trainables.places import Places

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MLFLOW = "mlflow:"  # before the name of an experiment
TAKEN = ("data", "teachers", "tables", "final", "mlartifacts")  # folders of the storage
FIELD_OF_FLAG = {"data": "data.name", "teacher": "teacher.architecture", "student": "student", "epochs": "epochs"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for, checked."""

    options: argparse.Namespace
    space: Space
    name: str
    places: Places
    mlflow_uri: str

    @property
    def folder(self) -> Path:
        return self.places.storage / self.name


def read_request(options: argparse.Namespace) -> Request:
    """Everything that can be checked without data, teacher or cluster. ValueError for what is wrong."""
    space = load_space(options.space)
    check(space)  # with its own values: others may leave out points that are wrong
    space = space.with_values(chosen_values(options))
    name = options.name or space.name
    if not NAME.fullmatch(name):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', at most 100, got {name!r}")
    if name in TAKEN:
        raise ValueError(f"--name must not be one of {', '.join(TAKEN)}, which the storage folder has for itself")
    if not space.base.data.held_out:
        raise ValueError("data.held_out must be above 0 in a search, which selects on held-out images")
    if space.base.batch_size % options.workers_per_trial:
        rule = f"a divisor of batch_size, {space.base.batch_size}, got {options.workers_per_trial}"
        raise ValueError(f"--workers-per-trial must be {rule}")
    check_share(options.workers_per_trial, options.gpus_per_worker)
    table_gb = 0.0 if options.independent_schedules else options.table_gb  # a table would serve a single trial
    places = places_of(options.storage, options.data_root, table_gb)
    writable(places.storage)
    if options.warm_start is not None:
        options.warm_start = _warm_start(options.warm_start, places.storage / name)
    if SCHEME.match(options.storage) and options.mlflow_uri is None:
        raise ValueError("--mlflow-uri must be given with a storage at a URI: a file on this machine may be lost")
    uri = options.mlflow_uri or f"sqlite:///{places.storage / 'mlflow.db'}"
    check_tracking_uri(uri)
    return Request(options=options, space=space, name=name, places=places, mlflow_uri=uri)


def _warm_start(source: str, own: Path) -> str:
    """A search's name, the whole path of its folder, or ``mlflow:EXPERIMENT``. ``own`` is the folder of this one."""
    if source in ("", own.name, MLFLOW) or "://" in source or Path(source).resolve() == own.resolve():
        raise ValueError(f"--warm-start must be another search, a search's folder or mlflow:EXPERIMENT, got {source!r}")
    if source.startswith(MLFLOW) or NAME.fullmatch(source):
        return source
    return str(Path(source).absolute())


def check_share(workers: int, share: float | str | None) -> None:
    """ValueError where several workers are to share GPUs."""
    if workers > 1 and (share == AUTO or 0 < float(share or 0) < 1):
        raise ValueError("--gpus-per-worker must be 1 or more with several workers: NCCL takes a GPU for each")


def chosen_values(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the base that flags replace, by dotted name."""
    values = {
        field: getattr(options, flag) for flag, field in FIELD_OF_FLAG.items() if getattr(options, flag) is not None
    }
    if options.data and options.data.startswith("folder:"):
        values["data.name"] = f"folder:{Path(options.data.removeprefix('folder:')).absolute()}"
    values |= {"seed": options.seed, "data.schedule_seed": options.seed}
    for setting in options.set:
        field, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes FIELD=VALUE, got {setting!r}")
        try:
            values[field.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"--set {field}: {text!r} is no value") from None
    return values


def writable(storage: Path) -> None:
    """Make the storage folder if need be. ValueError where it cannot be written."""
    probe = storage / f".writable.{os.getpid()}"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--storage {storage} cannot be written: {error.strerror}") from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other drivers off the search. ValueError names the one that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "driver.lock"), folder / "driver.pid"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = holder.read_text().strip() if holder.is_file() else "unknown"
        raise ValueError(f"{folder.name} is being run by process {pid}; one driver at a time") from None
    with lock:
        holder.write_text(f"{os.getpid()} on {os.uname().nodename}")
        yield

"""What a search's command line asks for: read, checked, and held against other drivers."""

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

from rrd_search.command import Parser, amount, default_storage, default_tracking_uri, whole
from rrd_search.samplers import SAMPLERS
from rrd_search.search_file import AUDIT_STOPS
from rrd_search.space import Space, load_space
from rrd_search.space_check import check
from rrd_search.storage import places_of
from rrd_search.tracking import check_tracking_uri
from trainables.mirror import SCHEME
from trainables.places import Places
from trainables.watchdog import HANG_SECONDS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
AUTO = "auto"
MLFLOW = "mlflow:"  # before the name of an experiment
SCHEDULERS = ("asha", "hyperband", "median", "none")  # of early_stopping.py, which takes Ray's seconds to import
TAKEN = ("data", "teachers", "tables", "final", "mlartifacts")  # folders of the storage
FLAGS = {"data": "data.name", "teacher": "teacher.architecture", "student": "student", "epochs": "epochs"}


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


def parser() -> Parser:
    parser = Parser("-m rrd_search.tune", "Search hyperparameters; the same command resumes, more --trials extend.")
    add = parser.add_argument
    add("space", nargs="?", default="quickstart", help="a space of search_spaces, or the path of a .py file")
    what = parser.add_argument_group("what is searched (default: as the space says)")
    what.add_argument("--data", help="digits, cifar10, cifar100, stl10, tiny_imagenet or folder:PATH")
    what.add_argument("--teacher", help="the teacher's architecture")
    what.add_argument(
        "--teacher-checkpoint", type=Path, metavar="FILE", help=".pth or .safetensors; default: train one"
    )
    what.add_argument("--student", help="the student's architecture")
    what.add_argument("--epochs", type=whole(1), help="of every trial")
    what.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of TrialConfig")
    how = parser.add_argument_group("how")
    how.add_argument("--name", help="of the search; default: the space's")
    how.add_argument("--trials", type=whole(1), help="in all; default: as the space says")
    how.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on with a changed space, although trials are no points of it: they are kept, but not compared",
    )
    how.add_argument(
        "--warm-start",
        metavar="SEARCH",
        help="whose trials guide the sampler from the start: a search of the storage, the path of a search's folder, "
        "or mlflow:EXPERIMENT",
    )
    how.add_argument("--hours", type=amount(0, exclusive=True), help="of wall-clock time; what runs then goes on later")
    how.add_argument("--sampler", choices=list(SAMPLERS), default="tpe", help="who proposes configs")
    how.add_argument("--scheduler", choices=SCHEDULERS, default="asha", help="early stopping")
    how.add_argument(
        "--audit-stops", type=whole(0), default=AUDIT_STOPS, help="trials to run on where early stopping would end them"
    )
    how.add_argument("--seed", type=whole(0), default=0, help="of data order, views, weights and proposals")
    how.add_argument(
        "--independent-schedules",
        action="store_true",
        help="each trial has its own order and views of the images; default: all share one, so that they differ less "
        "by chance",
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--storage", default=default_storage(), help="for all that is made: a folder, or a URI as s3://BUCKET/FOLDER"
    )
    where.add_argument("--data-root", type=Path, default=Path("data"), help="folder of downloaded datasets")
    where.add_argument("--table-gb", type=amount(0), default=20.0, help="GiB of the storage for teachers' tables")
    where.add_argument(
        "--checkpoint-gb", type=amount(0, exclusive=True), default=20.0, help="GiB of the storage for running trials"
    )
    where.add_argument("--mlflow-uri", default=default_tracking_uri(), help="default: sqlite in the storage folder")
    where.add_argument(
        "--address", help="of a Ray cluster, or local; default: the cluster that this machine is in, if any"
    )
    where.add_argument("--workers-per-trial", type=whole(1), default=1, help="two or more through Ray Train")
    where.add_argument("--cpus-per-worker", type=whole(1), default=1, help="cores")
    where.add_argument(
        "--gpus-per-worker",
        type=gpu_share,
        metavar="SHARE",
        help="a fraction packs trials on a GPU, auto measures which is best; default: 1 where there are GPUs",
    )
    where.add_argument(
        "--hang-minutes",
        type=amount(0, exclusive=True),
        default=HANG_SECONDS / 60,
        help="without a single batch, after which a trial's process is ended and the trial tried again",
    )
    where.add_argument("--max-concurrent", type=whole(1), help="trials; default: as many as fit")
    return parser


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


def gpu_share(text: str) -> float | str:
    """A type for ``add_argument``: a number of 0 or more, or ``auto``."""
    return AUTO if text == AUTO else amount(0)(text)


def check_share(workers: int, share: float | str | None) -> None:
    """ValueError where several workers are to share GPUs."""
    if workers > 1 and (share == AUTO or 0 < float(share or 0) < 1):
        raise ValueError("--gpus-per-worker must be 1 or more with several workers: NCCL takes a GPU for each")


def chosen_values(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the base that flags replace, by dotted name."""
    values = {field: getattr(options, flag) for flag, field in FLAGS.items() if getattr(options, flag) is not None}
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

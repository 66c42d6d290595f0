"""What the command line of final training asks for: read and checked."""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from rrd_search.command import Parser, amount, default_storage, default_tracking_uri, whole
from rrd_search.export_folder import TEACHER, check_networks
from rrd_search.request import NAME, check_share, writable
from rrd_search.search_file import data_root_of
from rrd_search.storage import places_of
from rrd_search.tracking import check_tracking_uri
from trainables.config import TrialConfig
from trainables.mirror import SCHEME
from trainables.places import Places


@dataclass(frozen=True, kw_only=True)
class FinalRequest:
    """``config`` trains on all training images. ``checkpoint`` is its teacher's, where one was given or exported."""

    config: TrialConfig
    name: str
    seeds: int
    checkpoint: Path | None
    places: Places
    mlflow_uri: str
    workers: int
    cpus_per_worker: int | None
    gpus_per_worker: float | None
    address: str | None


def parser() -> Parser:
    parser = Parser("-m rrd_search.train", "Train a config on all training images and measure it on the test images.")
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER|CONFIG.yaml", help="an exported folder, or a config")
    add("--seeds", type=whole(1), default=3, help="how many; the same command with more adds to them")
    add("--name", help="default: that of the search it was exported from, or of the config's file")
    add("--teacher-checkpoint", type=Path, metavar="FILE", help="default: the exported folder's, or by the config")
    add("--storage", default=default_storage(), help="for all that is made: a folder, or a URI")
    add("--data-root", type=Path, help="folder of downloaded datasets; default: that of the exported search, else data")
    add("--mlflow-uri", default=default_tracking_uri(), help="default: sqlite in the storage folder")
    add("--workers", type=whole(1), default=1, help="that share each batch; two or more through Ray Train")
    add("--cpus-per-worker", type=whole(1), help="default: this machine's, shared out; 1 on a cluster")
    add("--gpus-per-worker", type=amount(0), help="default: 1 where there are GPUs")
    add("--address", help="of a Ray cluster, or local; default: the cluster that this machine is in, if any")
    return parser


def read_final_request(options: argparse.Namespace) -> FinalRequest:
    """Everything that can be checked without data, teacher or cluster. ValueError for what is wrong."""
    config = final_config(TrialConfig.from_yaml(_config_file(options.source)))
    name = options.name or _name_of(options.source)
    if options.source.is_dir():
        check_networks(options.source)
    if not NAME.fullmatch(name):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', at most 100, got {name!r}")
    if config.batch_size % options.workers:
        raise ValueError(f"--workers must be a divisor of batch_size, {config.batch_size}, got {options.workers}")
    check_share(options.workers, options.gpus_per_worker)
    if options.teacher_checkpoint and not config.needs_teacher:
        raise ValueError(f"--teacher-checkpoint: {options.source} uses no teacher, loss.weight and kd_weight are 0")
    places = places_of(options.storage)
    writable(places.storage)
    root = data_root_of(options.data_root, places.storage / _name_of(options.source), places.data_root)
    places = replace(places, data_root=root)
    if SCHEME.match(options.storage) and options.mlflow_uri is None:
        raise ValueError("--mlflow-uri must be given with a storage at a URI: a file on this machine may be lost")
    uri = options.mlflow_uri or f"sqlite:///{places.storage / 'mlflow.db'}"
    check_tracking_uri(uri)
    exported = options.source / TEACHER
    return FinalRequest(
        config=config,
        name=name,
        seeds=options.seeds,
        checkpoint=options.teacher_checkpoint or (exported if exported.is_file() else None),
        places=places,
        mlflow_uri=uri,
        workers=options.workers,
        cpus_per_worker=options.cpus_per_worker,
        gpus_per_worker=options.gpus_per_worker,
        address=options.address,
    )


def final_config(config: TrialConfig) -> TrialConfig:
    """The same experiment on all training images; without the teacher's weights where it does not use them."""
    teacher = config.teacher if config.needs_teacher else replace(config.teacher, weights=None)
    return replace(config, data=replace(config.data, held_out=0.0), teacher=teacher)


def seeded(config: TrialConfig, number: int) -> TrialConfig:
    """The config with the ``number``-th pair of seeds, counted from 0, which are its own."""
    data = replace(config.data, schedule_seed=config.data.schedule_seed + number)
    return replace(config, data=data, seed=config.seed + number)


def _config_file(source: Path) -> Path:
    if source.is_dir() and not (source / "config.yaml").is_file():
        raise ValueError(f"{source} holds no config.yaml: it is no exported folder")
    if not source.exists():
        raise ValueError(f"{source}: no such folder or config; python -m rrd_search.export makes a folder")
    return source / "config.yaml" if source.is_dir() else source


def _name_of(source: Path) -> str:
    """That of the search that was exported, else the file's or folder's own."""
    facts = source / "metrics.json"
    try:
        return str(json.loads(facts.read_text())["search"]) if facts.is_file() else source.resolve().stem
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{facts} is damaged: {error}") from error

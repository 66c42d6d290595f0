"""The flags of ``python -m rrd_search.tune``. Nothing that takes time is imported: a typing error is told at once."""

from pathlib import Path

from rrd_search.command import Parser, amount, default_storage, default_tracking_uri, whole
from rrd_search.search_file import AUDIT_STOPS
from trainables.watchdog import HANG_SECONDS

AUTO = "auto"
SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random", "nsga2")  # of samplers.py
SCHEDULERS = ("asha", "hyperband", "median", "none")  # of early_stopping.py


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
    how.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="who proposes configs")
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


def gpu_share(text: str) -> float | str:
    """A type for ``add_argument``: a number of 0 or more, or ``auto``."""
    return AUTO if text == AUTO else amount(0)(text)

"""What benchmarks of whole searches share: a Ray of their own, and a search of one-worker trials run to its end."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from rrd_search.cluster import Cluster
from rrd_search.optuna_searcher import Study
from rrd_search.own_ray import OBJECT_STORE_BYTES, QUIETLY
from rrd_search.progress import Progress
from rrd_search.record import Recorder
from rrd_search.search import Plan, SearchRun
from rrd_search.space import Space
from rrd_search.tuner import run_trials
from trainables.places import Places
from trainables.resources import Resources

CLOSE_SECONDS = 120.0  # for what MLflow has not taken at the end


@dataclass(frozen=True, kw_only=True)
class SmallSearch:
    """Trials of ``space``, all run to their last epoch, recorded in SQLite files in ``folder``."""

    folder: Path
    space: Space
    trials: int
    concurrent: int
    sampler: str = "tpe"
    recorder: Callable[[Path, str, str], Any] = Recorder

    def run(self, driver: Callable[..., SearchRun], trial_class: type[tune.Trainable]) -> str:
        """``driver`` is called with what a ``SearchRun`` is made of. What the recorder had to say at the end."""
        study = Study(f"sqlite:///{self.folder / 'study.db'}", "small", self.space, self.sampler)
        recorder = self.recorder(self.folder, f"sqlite:///{self.folder / 'mlflow.db'}", "small")
        recorder.start_search({}, {})
        plan = Plan(
            folder=self.folder,
            places=Places(storage=self.folder, data_root=self.folder),
            trials=self.trials,
            scheduler="none",
            epochs=self.space.base.epochs,
            resources=Resources(),
            max_concurrent=self.concurrent,
            deadline=None,
        )
        console = Console(file=io.StringIO())
        with _own_ray(self.concurrent), Progress(console, name="", total=self.trials, done=0, best=None) as progress:
            run_trials(driver(plan, study, recorder, progress, Cluster(None)), trial_class)
        recorder.end_search({}, {})
        unsent = recorder.unsent()
        missing = recorder.close(CLOSE_SECONDS)
        study.close()
        return f"{unsent} events unsent at the end; {missing or 'then nothing is missing'}"


@contextmanager
def _own_ray(cpus: int) -> Iterator[None]:
    """On this machine, whatever it has, with all of Ray's processes but the dashboard."""
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **QUIETLY)
    try:
        yield
    finally:
        ray.shutdown()

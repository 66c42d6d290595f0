"""How many GPUs one driver keeps busy: the real study, scheduler, recorder and display, on a cluster that is made up.

python -m benchmarks.virtual_cluster [--gpus 512] [--trials 2000] [--seconds 60] [--reports 30] [--scheduler none]

No process trains: trials are events in virtual time. The driver takes them one by one, and each takes it as long as
its own code really took, plus what Ray Tune takes for it, which ``benchmarks.orchestration`` measures.
"""

import argparse
import heapq
import io
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from benchmarks.orchestration import value_of
from benchmarks.simulated import epoch_metrics
from rrd_search.early_stopping import RUNG_METRIC, SCHEDULERS
from rrd_search.optuna_searcher import Study
from rrd_search.progress import Progress
from rrd_search.record import Recorder
from rrd_search.search import Plan, SearchRun
from rrd_search.space import load_space
from trainables.places import Places
from trainables.resources import Resources

GPUS_OF_A_NODE = 8
TUNE_REPORT_SECONDS = 0.004  # of the driver's processor, for Tune's own part of a report
TUNE_TRIAL_SECONDS = 0.03  # and of a trial's start and end
REUSE_SECONDS = 0.1  # from the driver's word to the first step in a warm process
CLOSE_SECONDS = 600.0  # for what MLflow has not taken at the end


class NoCluster:
    """As ``rrd_search.cluster.Cluster`` tells of itself."""

    def __init__(self, gpus: int) -> None:
        self._nodes = gpus // GPUS_OF_A_NODE * [{"CPU": 64.0, "GPU": float(GPUS_OF_A_NODE)}]

    def nodes(self) -> list[dict[str, float]]:
        return self._nodes

    def startable(self) -> list[dict[str, float]]:
        return []


class VirtualRun(SearchRun):
    def _leave_nodes(self) -> None:
        """Ray is not there to be asked."""

    def _tune_config(self, proposal: Any) -> dict[str, Any]:
        return super()._tune_config(proposal) | {"value": value_of(proposal.config.flat())}


@dataclass
class VirtualTrial:
    """As Tune's schedulers see a trial; and when it runs."""

    trial_id: str
    config: dict[str, Any]
    started: float
    heard: int = 0  # epochs that it has reported
    status: str = "RUNNING"
    last_result: dict[str, Any] = field(default_factory=dict)

    def report(self, epoch_seconds: float, epochs: int) -> tuple[float, dict[str, Any]]:
        """The next one, and when it is made: as soon as its epochs took as long as reports are to be apart."""
        first = self.heard + 1
        self.heard = min(epochs, max(first, self.heard + int(self.config["report_seconds"] / epoch_seconds)))
        plan = {"value": self.config["value"], "epochs": epochs}
        curve = [epoch_metrics(plan, epoch) for epoch in range(first, self.heard + 1)]
        for metrics in curve:
            if metrics["epoch"] in self.config["rungs"]:
                metrics[RUNG_METRIC] = metrics["val_accuracy"]
        done = self.heard == epochs
        summary = {"epochs_run": float(self.heard), "final_val_accuracy": curve[-1]["val_accuracy"]}
        report = {**curve[-1], "curve": curve, "summary": summary, "done": done}
        return self.started + self.heard * epoch_seconds, report


class VirtualCluster:
    """``run`` until no trial is left. ``now``: the virtual time that the driver has come to."""

    def __init__(self, run: SearchRun, options: argparse.Namespace) -> None:
        self.search, self.options = run, options
        self.scheduler = run.scheduler()
        self.epoch_seconds = options.seconds / options.reports
        self.now = 0.0
        self.spent: dict[str, float] = defaultdict(float)  # seconds of the driver's processor, by what took them
        self.starts: list[float] = []
        self.ran: list[tuple[float, float]] = []  # start and end of each trial
        self._reports: list[tuple[float, int, VirtualTrial, dict[str, Any]]] = []
        self._number = itertools.count()

    def run(self) -> None:
        for _ in range(self.options.gpus):
            self._start()
        while self._reports:
            made, _, trial, report = heapq.heappop(self._reports)
            self.now = max(self.now, made)
            trial.last_result = report
            if report["done"] or self._decision(trial, report) == TrialScheduler.STOP:
                self._end(trial, made if report["done"] else self.now)
                self._start()
            else:
                self._await(trial)

    def _decision(self, trial: VirtualTrial, report: dict[str, Any]) -> str:
        stand_in: Any = trial
        self._take("Tune", TUNE_REPORT_SECONDS)
        with self._clocked("scheduler"):
            decision = self.scheduler.on_trial_result(None, stand_in, report)
        with self._clocked("reports: study, recorder, display"):
            self.search.heard(trial.trial_id, report)
            self.search.tick()
        return decision

    def _end(self, trial: VirtualTrial, at: float) -> None:
        stand_in: Any = trial
        self.ran.append((trial.started, at))
        self._take("Tune", TUNE_TRIAL_SECONDS)
        with self._clocked("scheduler"):
            self.scheduler.on_trial_complete(None, stand_in, trial.last_result)
        with self._clocked("ends: study, recorder, display"):
            self.search.heard(trial.trial_id, trial.last_result)
            self.search.ended(trial.trial_id, trial.last_result)

    def _start(self) -> None:
        tune_id = str(next(self._number))
        with self._clocked("proposals: sampler, study, recorder"):
            config = self.search.next(tune_id)
        if not isinstance(config, dict):
            assert config in (None, Searcher.FINISHED)
            return
        self.search.begun(tune_id)
        self.starts.append(self.now + REUSE_SECONDS)
        self._await(VirtualTrial(tune_id, config, self.starts[-1]))

    def _await(self, trial: VirtualTrial) -> None:
        made, report = trial.report(self.epoch_seconds, self.options.reports)
        heapq.heappush(self._reports, (made, next(self._number), trial, report))

    @contextmanager
    def _clocked(self, what: str) -> Iterator[None]:
        before = time.thread_time()
        yield
        self._take(what, time.thread_time() - before)

    def _take(self, what: str, seconds: float) -> None:
        self.spent[what] += seconds
        self.now += seconds


def busy(cluster: VirtualCluster) -> float:
    """The share of the time in which GPUs trained, since all of them did and while there were trials for all."""
    gpus = cluster.options.gpus
    begin, end = cluster.starts[gpus - 1], cluster.starts[-1]
    trained = sum(max(0.0, min(ended, end) - max(started, begin)) for started, ended in cluster.ran)
    return trained / ((end - begin) * gpus)


def main() -> None:
    options = _options()
    space = load_space("rrd").with_values({"epochs": options.reports})
    with tempfile.TemporaryDirectory(prefix="virtual-") as name:
        folder = Path(name)
        study = Study(f"sqlite:///{folder / 'study.db'}", "virtual", space, options.sampler)
        recorder = Recorder(folder, f"sqlite:///{folder / 'mlflow.db'}", "virtual")
        recorder.start_search({}, {})
        plan = Plan(
            folder=folder,
            places=Places(storage=folder, data_root=folder),
            trials=options.trials,
            scheduler=options.scheduler,
            epochs=options.reports,
            resources=Resources(gpus_per_worker=1),
            max_concurrent=None,
            deadline=None,
        )
        process, thread = time.process_time(), time.thread_time()
        with Progress(Console(file=io.StringIO()), name="", total=options.trials, done=0, best=None) as progress:
            stand_in: Any = NoCluster(options.gpus)
            cluster = VirtualCluster(VirtualRun(plan, study, recorder, progress, stand_in), options)
            cluster.run()
        unsent = recorder.unsent()
        missing = recorder.close(CLOSE_SECONDS)
        beside = time.process_time() - process - (time.thread_time() - thread)
        study.close()
    print(
        "\n".join(_table(cluster, beside)), f"\nrecorder: {unsent} events unsent at the end; {missing or 'then none'}"
    )


def _table(cluster: VirtualCluster, beside: float) -> list[str]:
    options, trials = cluster.options, len(cluster.ran)
    total = sum(cluster.spent.values())
    lines = [
        f"{trials} trials of {options.seconds:g} s with {options.reports} epochs on {options.gpus} GPUs, in virtual"
        f" time; sampler {options.sampler}, scheduler {options.scheduler}",
        f"  GPUs are busy {busy(cluster):.1%} of the time (at least 95 %)",
        f"  the driver is busy {total / cluster.now:.1%} of the time: {1e3 * total / trials:.0f} ms a trial, of which",
    ]
    lines += [f"    {1e3 * spent / trials:5.1f} ms  {what}" for what, spent in sorted(cluster.spent.items())]
    return [*lines, f"  beside it, the thread that sends to MLflow takes {1e3 * beside / trials:.0f} ms a trial"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=512)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="that a whole trial takes")
    parser.add_argument("--reports", type=int, default=30, help="epochs of a trial")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="none")
    return parser.parse_args()


if __name__ == "__main__":
    main()

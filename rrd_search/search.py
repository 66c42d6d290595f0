"""Ray Tune's side of a search: gives it configs, hears what trials report, and tells study, recorder and display."""

import logging
import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from rrd_search.cluster import Cluster, workers_that_fit
from rrd_search.early_stopping import METRIC, RUNG_METRIC, SCHEDULERS, SPARED, Audits, Sparing
from rrd_search.optuna_searcher import Proposal, Study
from rrd_search.progress import Progress, Row
from rrd_search.record import Recorder
from rrd_search.students import Students, forget_trial
from trainables.group import Resources
from trainables.places import Places
from trainables.trial import Trial

RETRIES = 2  # of a trial whose process died; it goes on from its checkpoint
REPORT_SECONDS = 1.0  # between two reports of a trial, at least
REPORTS_PER_SECOND = 50  # of all trials together, which a driver takes easily
CAPACITY_SECONDS = 5.0  # for which the cluster's size is taken as known
WAITING_BYTES = 2**20  # a process that only waits; Ray counts this, and limits nothing by it
NEVER = "1000000"  # seconds: the study is what a search resumes from, so Tune need not save its own state
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": NEVER,
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "32",  # as many may start at once; the searcher holds back what does not fit
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever it is told
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a search is run, beside what it searches."""

    folder: Path
    places: Places
    trials: int
    scheduler: str
    epochs: int
    resources: Resources
    max_concurrent: int | None
    deadline: float | None  # time.time() at which everything stops
    audit_stops: int = 0  # trials that early stopping would end, but that run on


class SearchRun:
    """The driver's knowledge while trials run. Trials of an earlier process come first, then references, then new."""

    def __init__(self, plan: Plan, study: Study, recorder: Recorder, progress: Progress, cluster: Cluster) -> None:
        self.plan, self.study, self.recorder, self.progress = plan, study, recorder, progress
        self.cluster = cluster
        self._students = Students(plan.folder, study)
        self._judge = SCHEDULERS[plan.scheduler](plan.epochs)
        self._waiting = deque([*study.unfinished(), *study.propose_references()])
        self._proposed = len(study.trials())
        self._running: dict[str, Proposal] = {}  # by Tune's id, which lives only as long as this process
        self._capacity, self._capacity_read = 0, 0.0
        self._seconds: list[float] = []  # that complete trials took
        self._started: dict[str, float] = {}

    def next(self, tune_id: str) -> dict[str, Any] | str | None:
        """The Tune config of the next trial; None while there is no room for one; FINISHED after the last."""
        if self.over() or self._too_late():
            return str(Searcher.FINISHED)
        if len(self._running) >= self.capacity():
            return None
        if not self._waiting:
            proposal = self.study.propose() if self._proposed < self.plan.trials else None
            if proposal is None:
                return str(Searcher.FINISHED)
            self._proposed += 1
            self._waiting.append(proposal)
        proposal = self._waiting.popleft()
        self._start(tune_id, proposal)
        return self._tune_config(proposal)

    def over(self) -> bool:
        return self.plan.deadline is not None and time.time() >= self.plan.deadline

    def capacity(self) -> int:
        """How many trials fit on the nodes that are alive, at least one: it makes an autoscaler start a node."""
        if time.monotonic() - self._capacity_read > CAPACITY_SECONDS:
            workers = workers_that_fit(self.plan.resources, self.cluster.nodes())
            self._capacity = max(1, workers // self.plan.resources.workers)
            self._capacity_read = time.monotonic()
        capacity = min(self._capacity, self.plan.max_concurrent or self._capacity)
        self.progress.workers = capacity
        return capacity

    def heard(self, tune_id: str, result: dict[str, Any]) -> None:
        """Epochs of a trial. What was heard before, by this process or an earlier one, is not heard again."""
        proposal = self._running[tune_id]
        for metrics in result.get("curve", []):
            epoch = int(metrics["epoch"])
            self.study.report(proposal.trial_id, epoch, metrics[METRIC])
            if RUNG_METRIC in metrics:
                self.study.report_rung(proposal.trial_id, epoch, metrics[RUNG_METRIC])
            shown = {name: value for name, value in metrics.items() if name != "epoch"}
            self.recorder.epoch(proposal.trial_id, epoch, shown)
            self.progress.epoch(proposal.trial_id, epoch, metrics[METRIC])

    def ended(self, tune_id: str, result: dict[str, Any], error: str | None) -> None:
        """A trial ended: by its last epoch, by the scheduler, or by an error; each is told as what it is."""
        proposal = self._running.pop(tune_id)
        epoch, value = int(result.get("epoch", 0)), result.get(METRIC)
        reason = error or result.get("failed")
        if reason is not None:
            state = "failed"
        else:
            state = "complete" if epoch >= proposal.config.epochs else "pruned"
        tags = {"rrd.failure": reason} if reason else {}
        if (audited := self.study.audited(proposal.trial_id)) is not None:
            tags["rrd.audited_at_epoch"] = str(audited)
        # The study last: a trial that it knows as ended is not run again, so nobody would tell the recorder.
        self.recorder.end_trial(proposal.trial_id, state, result.get("summary", {}), tags)
        self.study.tell(proposal.trial_id, state, value if state == "complete" else None, reason)
        if state == "complete":
            self._seconds.append(time.monotonic() - self._started[proposal.trial_id])
            if not proposal.reference:
                self._students.ended(proposal.trial_id)
        elif self.plan.resources.workers == 1:  # else its workers are still in their epoch: see ``forget_stopped``
            forget_trial(self.plan.folder, proposal.trial_id)
        if reason:
            self.progress.say(f"trial {proposal.trial_id} failed: {reason}")
        self.progress.finished(proposal.trial_id, state, counts=not proposal.reference)

    def scheduler(self) -> Sparing:
        """Early stopping that knows what earlier processes saw."""
        known = self.study.trials()
        return Sparing(self._judge, Audits(self.plan.audit_stops, self.plan.trials, known, self._audit), known)

    def _audit(self, trial_id: str, epoch: int) -> None:
        self.study.audit(trial_id, epoch)
        self.progress.say(f"trial {trial_id} would be stopped after epoch {epoch}; it runs on, to see how it ends")

    def _start(self, tune_id: str, proposal: Proposal) -> None:
        self._running[tune_id] = proposal
        self._started[proposal.trial_id] = time.monotonic()
        tags = {"rrd.trial_id": proposal.trial_id, "rrd.config_hash": proposal.config.config_hash}
        if proposal.point:
            tags["rrd.point"] = proposal.point
        self.recorder.start_trial(proposal.trial_id, proposal.params, tags)
        self.progress.started(Row(proposal.trial_id, proposal.config.epochs, told(proposal.point, proposal.params)))

    def _tune_config(self, proposal: Proposal) -> dict[str, Any]:
        spared = "reference" if proposal.reference else "point" if proposal.point else ""
        return {
            "trial_id": proposal.trial_id,
            "config": proposal.config.to_dict(),
            "storage": str(self.plan.places.storage),
            "data_root": str(self.plan.places.data_root),
            "table_gb": self.plan.places.table_gb,
            "folder": str(self.plan.folder),
            "resources": self.plan.resources.__dict__,
            "rungs": [] if proposal.reference else list(self._judge.rungs(proposal.config)),
            "report_seconds": max(REPORT_SECONDS, self.capacity() / REPORTS_PER_SECOND),
            SPARED: spared,
        }

    def _too_late(self) -> bool:
        """Whether a trial that started now would probably not end before the deadline."""
        if self.plan.deadline is None or not self._seconds:
            return False
        return time.time() + sum(self._seconds) / len(self._seconds) > self.plan.deadline


def told(point: str | None, params: dict[str, Any]) -> str:
    """A trial in a few words: the name of its point, or what it varies."""
    return point or " ".join(f"{name.split('.')[-1]}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_trials(run: SearchRun, trial_class: type[tune.Trainable] = Trial) -> None:
    """Run the search's trials to their end on the Ray that is initialised. Returns early at the deadline or Ctrl-C;
    what was running then goes on at the next start. Another ``trial_class`` must report as ``Trial`` does."""
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    resources = run.plan.resources
    # The workers of a TorchTrainer bring their own placement group; the trial that waits for them takes no CPU, and
    # Tune wants it to take something.
    alone: dict[str, float] = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    request: dict[str, float] = alone if resources.workers == 1 else {"memory": WAITING_BYTES}
    tuner = tune.Tuner(
        tune.with_resources(trial_class, tune.PlacementGroupFactory([request])),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Suggest(run),
            scheduler=run.scheduler(),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(run.plan.folder),
            callbacks=[_Hear(run)],
            stop=_Deadline(run),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
            verbose=0,
        ),
    )
    tuner.fit()


class _Driver:
    """Tune saves its parts with pickle; these belong to this process and are not saved."""

    run: SearchRun

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggest(_Driver, Searcher):
    def __init__(self, run: SearchRun) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.run = run

    def suggest(self, trial_id: str) -> Any:
        return self.run.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Heard in the callback, which also learns the error."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a search resumes from its study")


class _Hear(_Driver, tune.Callback):
    def __init__(self, run: SearchRun) -> None:
        self.run = run

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self.run.progress.tick()

    def on_trial_result(self, iteration: int, trials: Any, trial: TuneTrial, result: dict[str, Any], **_: Any) -> None:
        self.run.heard(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.run.ended(trial.trial_id, trial.last_result, None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.get_error()
        said = str(getattr(error, "cause", None) or error or "").strip().splitlines() or ["its process died"]
        self.run.ended(trial.trial_id, trial.last_result, said[-1])


class _Deadline(_Driver, tune.Stopper):
    def __init__(self, run: SearchRun) -> None:
        self.run = run

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.run.over()

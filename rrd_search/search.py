"""A search while its trials run: what is started next, and who hears what of it: study, recorder and display."""

import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from rrd_search.cluster import Cluster, draining_nodes, has_room, workers_that_fit
from rrd_search.disk import Disk
from rrd_search.early_stopping import METRIC, RUNG_METRIC, SCHEDULERS, SPARED, Audits, Sparing
from rrd_search.failures import Failure, Failures, failure_of
from rrd_search.optuna_searcher import Proposal, Study
from rrd_search.progress import Progress, Row
from rrd_search.record import Recorder
from rrd_search.retold import tell_epoch, trial_tags
from rrd_search.signals import Signals
from rrd_search.students import Students, forget_trial, trial_folder
from rrd_search.study_snapshot import SNAPSHOT, Snapshot
from trainables.interrupts import EVERYONE, Interrupts
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.refusal import OUT_OF_MEMORY
from trainables.resources import Resources
from trainables.watchdog import HANG_SECONDS
from trainables.worker import ENDED_AT, take_stack

LEAVE_SECONDS = 20.0  # in which trials that are asked to leave do so
NODES_SECONDS = 2.0  # between two looks for nodes that are to be taken away
REPORT_SECONDS = 1.0  # between two reports of a trial, at least
REPORTS_PER_SECOND = 25  # of all trials together: Tune takes some 4 ms for each
SPACE_ERRORS = 3  # after which nothing new is proposed
CAPACITY_SECONDS = 5.0  # for which the cluster's size is taken as known


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
    hang_seconds: float = HANG_SECONDS  # without a batch, after which a trial's process is ended
    checkpoint_bytes: int = 20 * 2**30  # of all running trials


class TookTooLong(Exception):
    """Trials that were asked to leave have not done so. They will go on from their last checkpoints."""


class SearchRun:
    """The driver's knowledge while trials run. Trials of an earlier process come first, then references, then new."""

    def __init__(self, plan: Plan, study: Study, recorder: Recorder, progress: Progress, cluster: Cluster) -> None:
        self.plan, self.study, self.recorder, self.progress = plan, study, recorder, progress
        self.cluster = cluster
        self._mirror = Mirror(plan.places)
        self._students = Students(plan.folder, study, self._mirror)
        self._snapshot = Snapshot(study.storage, plan.folder / SNAPSHOT, self._mirror)
        self._disk = Disk(plan.folder, progress.say)
        self._noticed: set[tuple[str, str]] = set()  # trial and what was said of it
        self._judge = SCHEDULERS[plan.scheduler](plan.epochs)
        self._waiting = deque([*study.unfinished(), *study.propose_references()])
        self._proposed = len(study.trials())
        self._running: dict[str, Proposal] = {}  # by Tune's id, which lives only as long as this process
        self._training: set[str] = set()  # those of them that have their process, or all their workers
        self._fit, self._could_fit, self._capacity_read = 0, 0, 0.0
        self._seconds: list[float] = []  # that complete trials took
        self._started: dict[str, float] = {}
        self._failures = Failures()
        self._pauses: dict[str, float] = {}  # time.monotonic() until which a trial waits, by its id
        self._room: dict[str, float] = {}  # how many times the usual resources a trial gets, by its id
        self.interrupts = Interrupts()
        self.signals = Signals()
        self.space_errors: list[str] = []  # of proposals that the space's function failed to make
        self._left: float | None = None  # time.monotonic() when all were asked to leave
        self._leaving_nodes: set[str] = set()
        self._nodes_read = 0.0

    def next(self, tune_id: str) -> dict[str, Any] | str | None:
        """The Tune config of the next trial; None while there is no room for one; FINISHED after the last."""
        if self.leaving or self._too_late():
            return str(Searcher.FINISHED)
        ready = [one for one in self._waiting if self._pauses.get(one.trial_id, 0.0) <= time.monotonic()]
        paused = len(self._waiting) - len(ready)  # their places stay free
        if len(self._running) + paused >= self.capacity() or self._disk.full:
            return None
        if not ready:
            proposal = self._propose() if self._proposed < self.plan.trials else None
            if proposal is None:  # for good, once nothing runs or waits that may have to be tried again
                return None if self._running or paused else str(Searcher.FINISHED)
            self._proposed += 1
        else:
            proposal = ready[0]
            self._waiting.remove(proposal)
        self._start(tune_id, proposal)
        return self._tune_config(proposal)

    def _propose(self) -> Proposal | None:
        """None where there is no other. A space that fails for one trial is asked for the next one; where it fails time
        and again, what runs comes to its end."""
        while len(self.space_errors) < SPACE_ERRORS:
            try:
                return self.study.propose()
            except ValueError as error:
                self.space_errors.append(str(error))
                self.progress.say(f"a proposal failed: {error}")
        return None

    @property
    def leaving(self) -> bool:
        """Whether all trials were asked to leave. They go on at the next start."""
        return self._left is not None

    def leave(self, why: str) -> None:
        """Ask all running trials to write a checkpoint and end."""
        if self._left is None:
            self._left = time.monotonic()
            self.progress.say(why)
            self.interrupts.ask(EVERYONE)

    def tick(self) -> None:
        """Called often. ``TookTooLong`` where trials do not leave."""
        self.progress.tick()
        self._disk.look()
        if self.signals.received is not None:
            self.leave("stopping: running trials write checkpoints (Ctrl-C again ends at once)")
        if self.plan.deadline is not None and time.time() >= self.plan.deadline:
            self.leave("the time is up: running trials write checkpoints")
        if self._left is not None and self._running and time.monotonic() - self._left > LEAVE_SECONDS:
            raise TookTooLong
        if time.monotonic() - self._nodes_read > NODES_SECONDS:
            self._leave_nodes()
            self._nodes_read = time.monotonic()

    def _leave_nodes(self) -> None:
        """Trials on nodes that are about to be taken away go on elsewhere."""
        for node in draining_nodes() - self._leaving_nodes:
            self.progress.say("a node is to be taken away: its trials write checkpoints, and go on elsewhere")
            self._leaving_nodes.add(node)
            self.interrupts.ask(node)

    def capacity(self) -> int:
        """How many trials fit on the nodes that are alive and those that an autoscaler may still start: it starts them
        for trials that wait. At least one: a cluster may have no node yet, and none that it tells of."""
        if time.monotonic() - self._capacity_read > CAPACITY_SECONDS:
            alive, resources = self.cluster.nodes(), self.plan.resources
            self._fit = workers_that_fit(resources, alive) // resources.workers
            self._could_fit = workers_that_fit(resources, [*alive, *self.cluster.startable()]) // resources.workers
            self._capacity_read = time.monotonic()
        capacity = max(1, min(self._could_fit, self.plan.max_concurrent or self._could_fit))
        self.progress.workers = min(self._fit, capacity)
        return capacity

    def begun(self, tune_id: str) -> None:
        """A trial has its process. That of several workers only waits for them, and says so with its first report."""
        if self.plan.resources.workers == 1:
            self._trains(tune_id)

    def _trains(self, tune_id: str) -> None:
        self._training.add(tune_id)
        trial_id = self._running[tune_id].trial_id
        self._started[trial_id] = time.monotonic()
        self.progress.begun(trial_id)

    def heard(self, tune_id: str, result: dict[str, Any]) -> None:
        """Epochs of a trial. What was heard before, by this process or an earlier one, is not heard again."""
        proposal = self._running[tune_id]
        if tune_id not in self._training:
            self._trains(tune_id)
        if (notice := result.get("notice")) and (proposal.trial_id, notice) not in self._noticed:
            self._noticed.add((proposal.trial_id, notice))
            self.progress.say(f"trial {proposal.trial_id}: {notice}")
        for metrics in result.get("curve", []):
            epoch = int(metrics["epoch"])
            self.study.report(proposal.trial_id, epoch, metrics[METRIC])
            if RUNG_METRIC in metrics:
                self.study.report_rung(proposal.trial_id, epoch, metrics[RUNG_METRIC])
            tell_epoch(self.recorder, proposal.trial_id, metrics)
            self.progress.epoch(proposal.trial_id, epoch, metrics[METRIC])

    def ended(self, tune_id: str, result: dict[str, Any], error: Any = None) -> None:
        """A trial ended: by its last epoch, by the scheduler, by an error, or because it was asked to leave; each is
        told as what it is. One that left, or may be tried again, waits for its turn."""
        proposal = self._running.pop(tune_id)
        self._training.discard(tune_id)
        if error is not None and self.plan.resources.workers > 1:
            self.interrupts.free(proposal.trial_id)
        failure = self._failure(proposal.trial_id, result, error)
        if result.get("interrupted") or (failure is not None and self._tries_again(proposal, failure)):
            self.progress.left(proposal.trial_id)
            self._waiting.appendleft(proposal)
            return
        epoch, value = int(result.get("epoch", 0)), result.get(METRIC)
        if failure is not None:
            state = "failed"
        else:
            state = "complete" if epoch >= proposal.config.epochs else "pruned"
        reason = None if failure is None else str(failure)
        tags = {"rrd.failure": reason} if reason else {}
        if (audited := self.study.audited(proposal.trial_id)) is not None:
            tags["rrd.audited_at_epoch"] = str(audited)
        # The study last: a trial that it knows as ended is not run again, so nobody would tell the recorder.
        self.recorder.end_trial(proposal.trial_id, state, result.get("summary", {}), tags, result.get(ENDED_AT))
        self.study.tell(proposal.trial_id, state, value if state == "complete" else None, reason)
        self._snapshot.told()
        if state == "complete":
            self._seconds.append(time.monotonic() - self._started[proposal.trial_id])
            if not proposal.reference:
                self._students.ended(proposal.trial_id)
        elif self.plan.resources.workers == 1:  # else its workers are still in their epoch: see ``forget_stopped``
            forget_trial(self.plan.folder, proposal.trial_id, self._mirror)
        if reason:
            self.progress.say(f"trial {proposal.trial_id} failed: {reason}")
        self.progress.finished(proposal.trial_id, state, counts=not proposal.reference)

    def _failure(self, trial_id: str, result: dict[str, Any], error: Any) -> Failure | None:
        if "failed" in result:
            return Failure(result["kind"], result["failed"])
        return None if error is None else failure_of(error, take_stack(trial_folder(self.plan.folder, trial_id)))

    def _tries_again(self, proposal: Proposal, failure: Failure) -> bool:
        if not self._failures.retries(proposal.trial_id, failure):
            return False
        if failure.kind == OUT_OF_MEMORY:
            more = self._resources(2)
            if more == self.plan.resources or more.workers > 1 or not has_room(more, self.cluster.nodes()):
                return False
            self._room[proposal.trial_id] = 2
        pause = self._failures.pause(proposal.trial_id, failure)
        self._pauses[proposal.trial_id] = time.monotonic() + pause
        when = f" in {pause:.0f} s" if pause else ""
        self.progress.say(f"trial {proposal.trial_id} goes on from its last checkpoint{when} ({failure})")
        return True

    def _resources(self, room: float) -> Resources:
        """Of a trial that gets ``room`` times the usual: fewer others then run beside it."""
        usual = self.plan.resources
        if usual.gpus_per_worker:
            return replace(usual, gpus_per_worker=min(room * usual.gpus_per_worker, max(1.0, usual.gpus_per_worker)))
        return replace(usual, cpus_per_worker=int(room * usual.cpus_per_worker))

    def close(self) -> None:
        """No trial runs any more."""
        self._snapshot.take()

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
        tags = trial_tags(proposal.trial_id, proposal.config.config_hash, proposal.point)
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
            "remote": self.plan.places.remote,
            "folder": str(self.plan.folder),
            "resources": self.plan.resources.__dict__,
            "room": self._resources(self._room.get(proposal.trial_id, 1)).__dict__,
            "interrupts": self.interrupts,
            "hang_seconds": self.plan.hang_seconds,
            "checkpoint_bytes": self.plan.checkpoint_bytes // self.capacity(),
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

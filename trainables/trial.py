"""One TrialConfig as a Tune Trainable, on one worker in this process or on many, and ``run`` for use without Tune."""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray import tune

from trainables import cpu
from trainables.config import TrialConfig
from trainables.interrupts import Heard, Interrupts
from trainables.loop import Interrupted
from trainables.materials import Materials
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.refusal import OUT_OF_MEMORY, refused
from trainables.resources import Resources
from trainables.result import Report, earlier_report, forget_copies
from trainables.worker import Task, Worker

if TYPE_CHECKING:
    from trainables.group import Group


class Leaving(Exception):
    """This process is about to be ended, and takes no other trial."""


DIVERGED = "diverged"  # a kind of failure, beside those of ``refusal``


class Inline:
    """A trial on one worker, in this process."""

    def __init__(
        self,
        task: Task,
        resources: Resources,
        materials: Materials | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        device = torch.device("cuda", 0) if resources.gpus_per_worker else torch.device("cpu")
        cpu.settle(resources.cpus_per_worker, device)
        self.worker = Worker(task, device, materials, interrupted)
        self._told = False  # all of it

    def next_epoch(self) -> Report | None:
        """Train one epoch; None when there is none left."""
        if self._told:
            return None
        if not self.worker.finished:  # as one may be that was interrupted while it waited for room on the disk
            self.worker.epoch()
        if self.worker.finished:
            self.worker.finish()
            self._told = True
        return self.worker.report()

    def more(self, seconds: float) -> Report | None:
        """The epoch after the last one, if it is not finished and there are more than 0 ``seconds`` for it."""
        return self.next_epoch() if seconds > 0 else None

    def stop(self) -> None:
        """Nothing else runs, and the last checkpoint lies in the trial's folder."""


def run(task: Task, resources: Resources, here: bool = True) -> Iterator[Report]:
    """Train a config from its last checkpoint to its end, epoch by epoch; the metrics of each, and a ``summary``.

    Students and result lie in the task's folder afterwards. A lone worker is this process, unless it is not to train
    ``here``; all others need a running Ray.
    """
    trial = Inline(task, resources) if resources.workers == 1 and here else _group(task, resources)
    try:
        while (report := trial.next_epoch()) is not None:
            yield report
    finally:
        trial.stop()


def _group(task: Task, resources: Resources, interrupts: Interrupts | None = None) -> Group:
    from trainables.group import Group  # Ray Train's part of it takes 0.3 s to import

    return Group(task, resources, interrupts)


class Trial(tune.Trainable):
    """What Tune runs. A class, because Tune awaits the end of a class and not of a function. Its config: ``trial_id``,
    ``config`` (a plain TrialConfig), ``storage``, ``data_root``, ``table_gb``, ``remote``, ``folder`` (of the search),
    ``resources``, ``rungs``, ``report_seconds``, ``hang_seconds``, ``checkpoint_bytes``, and ``interrupts``
    (or None).

    Asked to leave, by the driver or by SIGTERM, it writes a checkpoint and ends as ``interrupted``.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.running: Inline | Group | None = None
        self.materials: Materials | None = None
        self._error: Exception | None = None  # of an epoch after others that had to be reported first
        self._terminated = threading.Event()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)
        self._heard = Heard(config["interrupts"]) if config["interrupts"] is not None else None
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """The next epochs: to the next rung, to the end, or until ``report_seconds`` have passed since the last report.

        A trial that cannot be trained, or not in this memory, ends as ``failed``; other errors are raised.
        """
        nothing = {"epoch": 0, "val_accuracy": float("nan"), "done": True}
        try:
            if self._error is not None:
                raise self._error
            return self._next_epochs()
        except Interrupted:
            self._left = True
            return {**nothing, "interrupted": True}
        except Exception as error:
            if (kind := refused(error)) is None:
                raise
            reason = str(error)
        finally:
            self._reported = time.monotonic()
        if kind == OUT_OF_MEMORY:  # without the error's stack, and what that held
            self._free()
        return {**nothing, "failed": reason, "kind": kind}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial in the same process, where images and teacher stay. ``Leaving`` where it is to end."""
        self.cleanup()
        if self._terminated.is_set() or (self._heard is not None and self._heard.node_leaves):
            raise Leaving("its process was asked to end")  # a plain False would end the trial without a word
        if not self._left:
            task = self._task()
            forget_copies(task.folder, Mirror(task.places))
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Leave nothing running of a trial that was stopped."""
        if self.running is not None:
            self.running.stop()
        self.running = self._error = None
        torch.cuda.empty_cache()  # a recorded step's memory serves no other; trials that share the GPU may need it

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """A trial keeps its own checkpoints, in its folder."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See ``save_checkpoint``."""

    def _begin(self, config: dict[str, Any]) -> None:
        self.plan = config
        self._left = False  # to go on later
        self._reported = time.monotonic()

    def _next_epochs(self) -> dict[str, Any]:
        task = self._task()
        if self.running is None:
            if (
                known := earlier_report(task.folder, task.config, task.places)
            ) is not None:  # the driver died before it heard of it
                return self._result(known)
            self.running = self._start(task)
        report = self.running.next_epoch()
        if report is None:
            raise Interrupted
        return self._result(self._with_more(report, task.rungs))

    def _with_more(self, report: Report, rungs: tuple[int, ...]) -> Report:
        """The report, and in it the epochs that can follow in time."""
        assert self.running is not None, "it has just reported"
        end = self._reported + self.plan["report_seconds"]
        while report["epoch"] not in rungs:
            try:
                more = self.running.more(end - time.monotonic())
            except Exception as error:
                self._error = error
                break
            if more is None:
                break
            report = {**more, "curve": [*report["curve"], *more["curve"]]}
        return report

    def _start(self, task: Task) -> Inline | Group:
        resources = Resources(**self.plan["resources"])
        if resources.workers > 1:
            return _group(task, resources, self.plan["interrupts"])
        trial = Inline(task, resources, self.materials, self._leaves)
        self.materials = trial.worker.materials
        return trial

    def _task(self) -> Task:
        places = Places(
            storage=Path(self.plan["storage"]),
            data_root=Path(self.plan["data_root"]),
            table_gb=self.plan["table_gb"],
            remote=self.plan["remote"],
        )
        folder = Path(self.plan["folder"]) / "trials" / self.plan["trial_id"]
        config = TrialConfig.from_dict(self.plan["config"])
        return Task(
            config=config,
            places=places,
            folder=folder,
            rungs=tuple(self.plan["rungs"]),
            hang_seconds=self.plan["hang_seconds"],
            checkpoint_bytes=self.plan["checkpoint_bytes"],
        )

    def _leaves(self) -> bool:
        heard = self._heard is not None and self._heard.leaves(self.plan["trial_id"])
        return heard or self._terminated.is_set()

    def _terminate(self, *_: Any) -> None:
        if self.running is None:
            raise SystemExit
        self._terminated.set()

    def _free(self) -> None:
        self.running = self.materials = self._error = None
        gc.collect()
        torch.cuda.empty_cache()

    def _result(self, report: Report) -> dict[str, Any]:
        if not math.isfinite(report["train_loss"]):
            failed = f"the training loss diverged in epoch {report['epoch']}"
            return {**report, "failed": failed, "kind": DIVERGED, "done": True}
        return {**report, "done": report["epoch"] >= self.plan["config"]["epochs"]}

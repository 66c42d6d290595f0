"""A trial on two or more workers: a TorchTrainer in a thread, whose epochs are read one by one and which can be
stopped between two of them."""

import contextlib
import json
import logging
import os
import threading
from queue import Empty
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from trainables import cpu
from trainables.interrupts import Heard, Interrupts, on_this_node
from trainables.mirror import Mirror
from trainables.ranks import own_rank
from trainables.refusal import OUT_OF_MEMORY, refused
from trainables.resources import Resources
from trainables.result import Report, earlier_report, forget_copies
from trainables.whole_file import write_whole
from trainables.worker import Task, Worker

# Ray Train looks at its workers every 2 s by default, which makes a report take 2 s; and each trial would start three
# more processes to watch for what a search watches itself.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
STOP_SECONDS = 60  # in which all ranks end their epoch and the trainer returns
RESTARTS = 2  # of the workers of a trial, after one of them died
REFUSAL = "refused.json"  # in the trial's folder
log = logging.getLogger(__name__)


class Group:
    """The workers of one trial. ``next_epoch`` until it gives None; ``stop`` at any time; both raise their errors.

    ``interrupts``: who can ask it to leave, its own where None. All ranks then leave after the epoch they are in, with
    a checkpoint.
    """

    def __init__(self, task: Task, resources: Resources, interrupts: Interrupts | None = None) -> None:
        os.environ.update(SETTINGS)
        self._task = task
        self._reports = Queue(0, actor_options={"num_cpus": 0, "scheduling_strategy": on_this_node()})
        self._interrupts, self._own_interrupts = interrupts or Interrupts(), interrupts is None
        _forget_refusal(task)
        plan = {"task": task, "interrupts": self._interrupts, "threads": resources.cpus_per_worker}
        storage_path, filesystem = Mirror(task.places).of_train(task.folder / "train")
        per_worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        backend = "nccl" if resources.gpus_per_worker else "gloo"
        trainer = TorchTrainer(
            train_ranks,
            train_loop_config=plan,
            torch_config=TorchConfig(backend=backend),
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={name: amount for name, amount in per_worker.items() if amount},
            ),
            run_config=RunConfig(
                name=task.folder.name,
                storage_path=storage_path,
                storage_filesystem=filesystem,
                callbacks=[_Bridge(self._reports)],  # type: ignore[list-item]  # Ray's annotation is of Tune's
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        self._error: BaseException | None = None
        self._fitting = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._fitting.start()

    def next_epoch(self) -> Report | None:
        """The next epoch's metrics, as soon as it is done; None when there is none left."""
        while True:
            with contextlib.suppress(Empty):
                return dict(self._reports.get(timeout=0.3))
            if not self._fitting.is_alive() and self._reports.empty():
                if (error := _refusal(self._task) or self._error) is not None:
                    raise error
                return None

    def more(self, seconds: float) -> Report | None:
        """The next epoch's metrics if it is done already."""
        with contextlib.suppress(Empty):
            return dict(self._reports.get_nowait())
        return None

    def stop(self) -> None:
        """All ranks leave after the epoch they are in, and everything that the trial started is gone on return."""
        trial_id = self._task.folder.name
        self._interrupts.ask(trial_id)
        self._fitting.join(STOP_SECONDS)
        if self._fitting.is_alive():
            log.error("a trial's workers have not stopped within %s s", STOP_SECONDS)
        elif self._own_interrupts:
            self._interrupts.close()
        else:
            self._interrupts.withdraw(trial_id)
        self._reports.shutdown(force=True)

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error


def train_ranks(plan: dict[str, Any]) -> None:
    """What Ray Train runs in each worker. What cannot be trained is not tried again: the reason is left in a file, and
    the workers that Train starts in place of these return at once."""
    if _refusal(plan["task"]) is not None:
        return
    try:
        _train_ranks(plan)
    except Exception as error:
        if (kind := refused(error)) is not None:
            _refuse(plan["task"], kind, str(error))
        raise
    if own_rank() == 0 or ray.train.get_context().get_node_rank() > 0:  # rank 0 may still write on its own node
        forget_copies(plan["task"].folder, Mirror(plan["task"].places))


def _train_ranks(plan: dict[str, Any]) -> None:
    task, device = plan["task"], ray.train.torch.get_device()
    cpu.settle(plan["threads"], device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if own_rank() == 0:
        group = ray.get_runtime_context().get_placement_group_id()
        plan["interrupts"].hold(task.folder.name, group)
    heard = Heard(plan["interrupts"])
    if (known := _earlier_report(task, device)) is not None:  # this worker's forerunner died after the end
        return ray.train.report(known)
    worker = Worker(task, device)
    if worker.finished:  # its forerunner was interrupted while it waited for room on the disk
        worker.finish()
        return ray.train.report(worker.report())
    while not worker.finished:
        worker.epoch()
        if worker.finished:
            worker.finish()
        ray.train.report(worker.report())
        if not worker.finished and _any_rank(heard.leaves(task.folder.name), device):
            if worker.rank == 0:
                worker.write_checkpoint()
            return


def _earlier_report(task: Task, device: torch.device) -> Report | None:
    """The same on all ranks: one whose machine alone had the result has put it in the mirror before the others look
    there again."""
    known = earlier_report(task.folder, task.config, task.places)
    if not _any_rank(known is not None, device):
        return None
    known = known or earlier_report(task.folder, task.config, task.places)
    if known is None:
        raise OSError(f"the result of {task.folder.name} is on another machine, and not in the storage")
    return known


def _any_rank(yes: bool, device: torch.device) -> bool:
    """Whether it is so on one of them, told to all, so that all leave after the same epoch."""
    said = torch.tensor(float(yes), device=device)
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())


def _refuse(task: Task, kind: str, reason: str) -> None:
    """Leave the reason where the trial's other processes find it, on whatever machines they are."""
    write_whole(task.folder / REFUSAL, json.dumps({"kind": kind, "reason": reason}).encode())
    Mirror(task.places).push(task.folder / REFUSAL)


def _refusal(task: Task) -> Exception | None:
    """The error that a process of the trial has refused its config with."""
    if not Mirror(task.places).pull(task.folder / REFUSAL):
        return None
    told = json.loads((task.folder / REFUSAL).read_text())
    return MemoryError(told["reason"]) if told["kind"] == OUT_OF_MEMORY else ValueError(told["reason"])


def _forget_refusal(task: Task) -> None:
    (task.folder / REFUSAL).unlink(missing_ok=True)
    Mirror(task.places).delete(task.folder / REFUSAL)


class _Bridge(UserCallback):
    """Not Tune's own TuneReportCallback: that one can wait for ever near the end of a trial."""

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.reports.put(metrics[0])

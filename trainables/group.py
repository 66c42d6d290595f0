"""A trial on two or more workers: a TorchTrainer in a thread, whose epochs are read one by one and which can be
stopped between two of them."""

import contextlib
import logging
import os
import threading
from dataclasses import dataclass
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
from trainables.worker import Report, Task, Worker, finished_report

# Ray Train looks at its workers every 2 s by default, which makes a report take 2 s; and each trial would start three
# more processes to watch for what a search watches itself.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
STOP_SECONDS = 60  # in which all ranks end their epoch and the trainer returns
RESTARTS = 2  # of the workers of a trial, after one of them died
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Of one trial: its workers, and what each of them takes. Without GPUs, a worker has one thread a CPU."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0


class Group:
    """The workers of one trial. ``next_epoch`` until it gives None; ``stop`` at any time; both raise their errors."""

    def __init__(self, task: Task, resources: Resources) -> None:
        os.environ.update(SETTINGS)
        self._reports = Queue(0, actor_options={"num_cpus": 0})
        flag: Any = ray.remote(_Flag)
        self._flag = flag.options(num_cpus=0).remote()
        plan = {"task": task, "flag": self._flag, "threads": resources.cpus_per_worker}
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
                storage_path=str(task.folder / "train"),
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
                if self._error is not None:
                    raise self._error
                return None

    def more(self, seconds: float) -> Report | None:
        """The next epoch's metrics if it is done already."""
        with contextlib.suppress(Empty):
            return dict(self._reports.get_nowait())
        return None

    def stop(self) -> None:
        """All ranks leave after the epoch they are in, and everything that the trial started is gone on return."""
        ray.get(self._flag.raise_.remote())
        self._fitting.join(STOP_SECONDS)
        if self._fitting.is_alive():
            log.error("a trial's workers have not stopped within %s s", STOP_SECONDS)
        self._reports.shutdown(force=True)
        ray.kill(self._flag)

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error


def train_ranks(plan: dict[str, Any]) -> None:
    """What Ray Train runs in each worker."""
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        cpu.settle(plan["threads"])
    else:
        torch.cuda.set_device(device)
    if (known := finished_report(plan["task"].folder)) is not None:  # this worker's forerunner died after the end
        return ray.train.report(known)
    worker = Worker(plan["task"], device)
    while not worker.finished:
        worker.epoch()
        if worker.finished:
            worker.finish()
        ray.train.report(worker.report())
        if _stop_raised(plan["flag"], worker.rank, device):
            return


def _stop_raised(flag: Any, rank: int, device: torch.device) -> bool:
    """What rank 0 sees, told to all, so that all leave in the same epoch."""
    raised = torch.zeros(1, device=device)
    if rank == 0:
        try:
            raised[0] = float(ray.get(flag.get.remote()))
        except ray.exceptions.RayActorError:  # whoever would raise it is gone
            raised[0] = 1.0
    dist.broadcast(raised, 0)
    return bool(raised.item())


class _Flag:
    def __init__(self) -> None:
        self.up = False

    def raise_(self) -> None:
        self.up = True

    def get(self) -> bool:
        return self.up


class _Bridge(UserCallback):
    """Not Tune's own TuneReportCallback: that one can wait for ever near the end of a trial."""

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self.reports.put(metrics[0])

"""What each process of a trial does: takes its slice of the batches, trains, evaluates, writes checkpoints."""

import errno
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.checkpoint import LIMIT_BYTES, Checkpoints
from trainables.config import TrialConfig
from trainables.distiller import Distiller
from trainables.loop import Interrupted, Training, evaluate
from trainables.materials import Materials
from trainables.mirror import Mirror
from trainables.outputs import Batch
from trainables.places import Places
from trainables.ranks import own_rank, sum_over_ranks, world_size
from trainables.result import STUDENTS, Report, settle, write_result
from trainables.rungs import WeightAverage
from trainables.teacher import LiveTeacher, no_teacher
from trainables.teacher_table import TeacherTable
from trainables.watchdog import HANG_SECONDS, Watchdog, hung
from trainables.weights import save_weights
from trainables.whole_file import write_whole

Metrics = dict[str, float]
ENDED_AT = "ended_at"  # time.time() of an epoch's end, among its metrics
STACK = "stack-"  # how the files begin that tell where a process hung
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk or a quota
ROOM_SECONDS = 2.0  # between two tries where one is full
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is told: the experiment, where data and teachers lie, and the folder that is the trial's own.

    ``rungs`` are the epochs after which the averaged student is evaluated too; training is the same with and without.
    A process that gets no batch done in ``hang_seconds`` ends. Its checkpoints take at most ``checkpoint_bytes``.
    """

    config: TrialConfig
    places: Places
    folder: Path
    rungs: tuple[int, ...] = ()
    hang_seconds: float = HANG_SECONDS
    checkpoint_bytes: int = LIMIT_BYTES


class Worker:
    """One process of a trial, from its last checkpoint on. ``epoch()`` until ``finished``, then ``finish()``.

    A lone process writes a checkpoint in the middle of an epoch as soon as ``interrupted()``.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        materials: Materials | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.task, self.config = task, task.config
        self._interrupted, self._may_interrupt = interrupted, False
        self._mirror = Mirror(task.places)
        self._checkpoints = Checkpoints(task.folder, self._mirror, task.checkpoint_bytes)
        self.notice = ""  # what went wrong and did not end the trial
        self.rank = own_rank()
        take_stack(task.folder, f"{self.rank}")  # where the driver, on another machine, has not
        self._watchdog = Watchdog(task.folder / f"hung-{self.rank}.txt", task.hang_seconds)
        self._average: WeightAverage | None = None  # of the epoch, where it ends at a rung
        if materials is None or not materials.fits(self.config, device):
            materials = Materials(self.config, task.places, device)
        self.materials = materials
        self.curve: list[Metrics] = []  # one entry an epoch
        self._reported, self._shown = 0, materials.shown
        self.best_student: dict[str, Tensor] = {}
        distiller = Distiller(self.config, materials.num_classes)
        self.teacher: LiveTeacher | TeacherTable | None = None
        if distiller.needs_teacher:
            self.teacher = materials.table or materials.teacher
            assert self.teacher is not None, "a distilling trial is given its teacher's weights"
        state = self._read_checkpoint()
        if state is None:
            self._prepare(distiller)
        self.training = Training(self.config, distiller, device)
        if state is not None:
            self._go_on_from(state)

    @property
    def finished(self) -> bool:
        return self.training.epoch >= self.config.epochs or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the training loss is no longer a number. Nothing that is trained further comes back from that."""
        return bool(self.curve) and not math.isfinite(self.curve[-1]["train_loss"])

    def epoch(self) -> Metrics:
        """Train and evaluate one epoch; its metrics by name, with ``epoch`` counted from 1. ``Interrupted``, in the
        middle of it, where it was asked for: what is done is then in a checkpoint."""
        self.materials.batches.watch = self._watch
        self._watchdog.alive()
        try:
            return self._epoch()
        except Interrupted:
            self.write_checkpoint()
            raise
        finally:
            self.materials.batches.watch = None
            self._watchdog.off()

    def _epoch(self) -> Metrics:
        number, training = self.training.epoch + 1, self.training
        started = time.perf_counter() - training.part.seconds
        if number in self.task.rungs and self._average is None:
            self._average = WeightAverage(training.distiller.student)
        self._may_interrupt = world_size() == 1
        teacher = self.teacher.epoch(number, self.config.epochs) if self.teacher else no_teacher
        metrics = {"epoch": number, **training.train_epoch(self._batches(number), teacher)}
        self._may_interrupt = False  # what follows is short
        metrics["teacher_images"] = self._shown_to_teacher()
        metrics |= self._evaluated(training.distiller.student)
        if self._average is not None:
            student = self._averaged(self._average, number)
            metrics["averaged_val_accuracy"] = self._evaluated(student)["val_accuracy"]
        self._average = None
        metrics["device_seconds"] = (time.perf_counter() - started) * world_size()
        metrics[ENDED_AT] = time.time()
        self.curve.append(metrics)
        if self.best_epoch == number:
            weights = training.distiller.student.state_dict()
            self.best_student = {name: tensor.detach().clone() for name, tensor in weights.items()}
        if self.rank == 0 and not self.finished and self._checkpoints.due:
            self.write_checkpoint()
        return metrics

    def _batches(self, epoch: int) -> Iterable[Batch]:
        """Those of the epoch that were not trained on yet."""
        done = self.training.part.steps
        batches = self.materials.batches.epoch(epoch, self.config.batch_size, self.rank, world_size(), done)
        return batches if self._average is None else self._average.over(batches)

    def _watch(self) -> None:
        """Before each batch, whatever it is for."""
        self._watchdog.alive()
        if self._may_interrupt and self._interrupted():
            raise Interrupted

    def _evaluated(self, student: nn.Module) -> Metrics:
        """On the held-out images, if there are any."""
        held_out = self.materials.images.held_out_ids
        if not len(held_out):
            return {}
        mine = self.materials.batches.unaugmented(held_out[self.rank :: world_size()])
        return evaluate(student, mine, self.config.precision)

    def _averaged(self, average: WeightAverage, epoch: int) -> nn.Module:
        """The epoch's averaged student, equal on all ranks."""
        whole = self.materials.batches.epoch(epoch, self.config.batch_size)
        return average.student(whole, self.config.precision, self.materials.device)

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest held-out accuracy; the last epoch without held-out images."""
        if not len(self.materials.images.held_out_ids):
            return self.training.epoch
        best = max(self.curve, key=lambda metrics: (metrics["val_accuracy"], -metrics["epoch"]))
        return int(best["epoch"])

    def report(self) -> Report:
        """The last epoch's metrics, the trial's ``summary``, and in ``curve`` all epochs since the last report: after
        a resume also those that the dead process may have kept to itself."""
        news, self._reported = self.curve[self._reported :], len(self.curve)
        return {**self.curve[-1], "summary": self.summary(), "curve": news, "notice": self.notice}

    def summary(self) -> Metrics:
        """The trial's metrics that have no epoch."""
        spent = sum(metrics["device_seconds"] for metrics in self.curve)
        seen = sum(metrics["teacher_images"] for metrics in self.curve)
        summary = {"epochs_run": float(len(self.curve)), "device_seconds": spent, "teacher_images": seen}
        if isinstance(self.teacher, TeacherTable) and math.isfinite(self.teacher.max_difference):
            summary["table_max_difference"] = self.teacher.max_difference
        if len(self.materials.images.held_out_ids) and self.curve:
            summary["final_val_accuracy"] = self.curve[-1]["val_accuracy"]
            summary["best_val_accuracy"] = self.curve[self.best_epoch - 1]["val_accuracy"]
            summary["best_epoch"] = float(self.best_epoch)
        return summary

    def finish(self) -> None:
        """Leave the students of the last and the best epoch and the metrics in the folder, no checkpoint. Where the
        disk is full, or an object store away, wait until it is not. ``Interrupted`` where it was asked for meanwhile.
        """
        said = False
        while self.rank == 0:
            try:
                return self._finish()
            except OSError as error:
                if error.errno not in FULL and not self._mirror.exists:
                    raise
                if self._interrupted():
                    self.write_checkpoint()
                    raise Interrupted from error
                if not said:
                    log.warning("%s: the end of the trial waits: %s", self.task.folder, error)
                said = True
                time.sleep(ROOM_SECONDS)

    def _finish(self) -> None:
        folder = self.task.folder
        for weights, name in zip(
            (self.training.distiller.student.state_dict(), self.best_student), STUDENTS, strict=True
        ):
            save_weights(weights, folder / name)
        write_whole(folder / "config.yaml", self.config.to_yaml().encode())
        write_result(folder, self.config, self.curve, self.summary())
        settle(folder, self._mirror)

    def write_checkpoint(self) -> None:
        """Everything that the rest of the trial depends on. A full disk costs the checkpoint, not the trial."""
        state = {
            "config_hash": self.config.config_hash,
            "training": self.training.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "curve": self.curve,
            "best_student": self.best_student,
            "shown": self.materials.shown - self._shown,
            "random_state": torch.get_rng_state(),
        }
        try:
            self._checkpoints.write(state)
        except OSError as error:
            self.notice = f"no checkpoint is written: {error}"

    def _read_checkpoint(self) -> dict[str, Any] | None:
        state = self._checkpoints.read()
        if state is None:
            return None
        if state["config_hash"] != self.config.config_hash:
            log.warning("%s has a checkpoint of config %s: the trial begins", self.task.folder, state["config_hash"])
            return None
        torch.set_rng_state(state["random_state"])
        return state

    def _go_on_from(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])
        self.curve, self.best_student = state["curve"], state["best_student"]
        self._shown -= state["shown"]
        if state["average"] is not None:
            self._average = WeightAverage(self.training.distiller.student)
            self._average.load_state_dict(state["average"])

    def _shown_to_teacher(self) -> float:
        """How many images all ranks have shown to the teacher since this was last asked, whatever for."""
        before, self._shown = self._shown, self.materials.shown
        return float(sum_over_ranks(torch.tensor(self._shown - before, device=self.training.device)))

    def _prepare(self, distiller: Distiller) -> None:
        """Show the loss the teacher's embeddings of the unaugmented training images, if it asks for them."""
        if distiller.loss is not None and distiller.loss.needs_preparation:
            assert self.materials.table is not None, "what is prepared with embeddings reads embeddings alone"
            distiller.loss.prepare(self.materials.table.unaugmented())


def take_stack(folder: Path, rank: str = "*") -> bool:
    """Whether a process of the trial was ended by its watchdog. Its stack stays, as ``stack-TIME-RANK.txt``."""
    found = [file for file in folder.glob(f"hung-{rank}.txt") if hung(file)]
    for file in found:
        file.rename(folder / f"{STACK}{int(time.time())}-{file.stem.removeprefix('hung-')}.txt")
    return bool(found)

"""What each process of a trial does: takes its slice of the batches, trains, evaluates, writes checkpoints."""

import json
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.config import DataConfig, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_training
from trainables.distiller import Distiller
from trainables.loop import Training, evaluate
from trainables.places import Places
from trainables.ranks import own_rank, sum_over_ranks, world_size
from trainables.teacher import LiveTeacher, no_teacher, stored_teacher
from trainables.teacher_table import TeacherTable
from trainables.weights import load_network, save_weights

Metrics = dict[str, float]
Report = dict[str, Any]
CHECKPOINT_SHARE = 0.05  # of the time goes into writing checkpoints, at most
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is told: the experiment, where data and teachers lie, and the folder that is the trial's own."""

    config: TrialConfig
    places: Places
    folder: Path


class Materials:
    """Images and teacher on the device. Trials that follow one another in a process share them."""

    def __init__(self, config: TrialConfig, places: Places, device: torch.device) -> None:
        self.key = self._key(config)
        self.device = device
        images = load_training(config.data, places.storage, places.data_root)
        self.num_classes = len(images.part.classes)
        self.images = images
        self.batches = Batches(images.part, config.data, images.train_ids, device)
        self.teacher: LiveTeacher | None = None
        self.table: TeacherTable | None = None
        if config.teacher.weights is not None:
            path = stored_teacher(config, places.storage)
            network = load_network(path, config.teacher.architecture, self.num_classes)
            self.teacher = LiveTeacher(network, config.precision, device)
            if TeacherTable.serves(config):
                self.table = TeacherTable(config, self.teacher, self.batches, places)

    @property
    def shown(self) -> int:
        """How many images this process has shown to the teacher."""
        return self.teacher.images if self.teacher else 0

    def fits(self, config: TrialConfig, device: torch.device) -> bool:
        return self.key == self._key(config) and self.device == device

    @staticmethod
    def _key(config: TrialConfig) -> tuple[DataConfig, TeacherConfig, str, str]:
        return config.data, config.teacher, config.precision, config.loss.name


class Worker:
    """One process of a trial, from its last checkpoint on. ``epoch()`` until ``finished``, then ``finish()``."""

    def __init__(self, task: Task, device: torch.device, materials: Materials | None = None) -> None:
        self.task, self.config = task, task.config
        if materials is None or not materials.fits(self.config, device):
            materials = Materials(self.config, task.places, device)
        self.materials = materials
        self.curve: list[Metrics] = []  # one entry an epoch
        self._reported, self._shown = 0, materials.shown
        self.best_student: dict[str, Tensor] = {}
        self.rank = own_rank()
        self._written, self._writing = time.perf_counter(), 0.0
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
            self.training.load_state_dict(state["training"])
            self.curve, self.best_student = state["curve"], state["best_student"]

    @property
    def finished(self) -> bool:
        return self.training.epoch >= self.config.epochs or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the training loss is no longer a number. Nothing that is trained further comes back from that."""
        return bool(self.curve) and not math.isfinite(self.curve[-1]["train_loss"])

    def epoch(self) -> Metrics:
        """Train and evaluate one epoch; its metrics by name, with ``epoch`` counted from 1."""
        started = time.perf_counter()
        number = self.training.epoch + 1
        teacher = self.teacher.epoch(number, self.config.epochs) if self.teacher else no_teacher
        batches = self.materials.batches.epoch(number, self.config.batch_size, self.rank, world_size())
        metrics = {"epoch": number, **self.training.train_epoch(batches, teacher)}
        metrics["teacher_images"] = self._shown_to_teacher()
        if len(held_out := self.materials.images.held_out_ids):
            mine = self.materials.batches.unaugmented(held_out[self.rank :: world_size()])
            metrics |= evaluate(self.training.distiller.student, mine, self.config.precision)
        metrics["device_seconds"] = (time.perf_counter() - started) * world_size()
        self.curve.append(metrics)
        if self.best_epoch == number:
            student = self.training.distiller.student.state_dict()
            self.best_student = {name: tensor.detach().clone() for name, tensor in student.items()}
        if self.rank == 0 and not self.finished and self._checkpoint_due():
            self.write_checkpoint()
        return metrics

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
        return {**self.curve[-1], "summary": self.summary(), "curve": news}

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
        """Leave the students of the last and the best epoch and the metrics in the folder, no checkpoint."""
        if self.rank == 0:
            folder = self.task.folder
            save_weights(self.training.distiller.student.state_dict(), folder / "student.safetensors")
            save_weights(self.best_student, folder / "best_student.safetensors")
            (folder / "config.yaml").write_text(self.config.to_yaml())
            result = {"config_hash": self.config.config_hash, "curve": self.curve, "summary": self.summary()}
            _replace(folder / "result.json", json.dumps(result).encode())
            for file in (checkpoint_of(folder), *folder.glob(".checkpoint.*")):  # drafts of killed processes too
                file.unlink(missing_ok=True)

    def write_checkpoint(self) -> None:
        """Everything that the rest of the trial depends on, written whole or not at all."""
        started = time.perf_counter()
        state = {
            "config_hash": self.config.config_hash,
            "training": self.training.state_dict(),
            "curve": self.curve,
            "best_student": self.best_student,
            "random_state": torch.get_rng_state(),
        }
        draft = self.task.folder / f".checkpoint.{os.getpid()}"
        self.task.folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, draft)
        os.replace(draft, checkpoint_of(self.task.folder))
        self._written = time.perf_counter()
        self._writing = self._written - started

    def _checkpoint_due(self) -> bool:
        return (time.perf_counter() - self._written) * CHECKPOINT_SHARE >= self._writing

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = checkpoint_of(self.task.folder)
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes the reader raise
            log.warning("%s is damaged (%s): the trial starts again", path, type(error).__name__)
            return None
        if state["config_hash"] != self.config.config_hash:
            raise ValueError(f"{path} belongs to config {state['config_hash']}, not to {self.config.config_hash}")
        torch.set_rng_state(state["random_state"])
        return state

    def _shown_to_teacher(self) -> float:
        """How many images all ranks have shown to the teacher since this was last asked, whatever for."""
        before, self._shown = self._shown, self.materials.shown
        return float(sum_over_ranks(torch.tensor(self._shown - before, device=self.training.device)))

    def _prepare(self, distiller: Distiller) -> None:
        """Show the loss the teacher's embeddings of the unaugmented training images, if it asks for them."""
        if distiller.loss is not None and distiller.loss.needs_preparation:
            assert self.materials.table is not None, "what is prepared with embeddings reads embeddings alone"
            distiller.loss.prepare(self.materials.table.unaugmented())


def checkpoint_of(folder: Path) -> Path:
    return folder / "checkpoint.pt"


def finished_report(folder: Path) -> Report | None:
    """The report of a trial that ``finish`` ended, with its whole curve; None while it is not finished."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return {**result["curve"][-1], "summary": result["summary"], "curve": result["curve"]}


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    os.replace(draft, path)

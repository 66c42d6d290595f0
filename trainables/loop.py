"""Training and evaluation in plain PyTorch: an epoch of a distiller, and the accuracy of a student."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ScheduleConfig, TrialConfig
from trainables.distiller import Distiller
from trainables.outputs import Batch, Outputs
from trainables.ranks import sum_over_ranks, world_size
from trainables.sgd import SGD
from trainables.step_graph import StepGraph

Teacher = Callable[[Batch], Outputs]
AnyModule = TypeVar("AnyModule", bound=nn.Module)

SHOWN_AS = {"loss": "train_loss", "ce": "train_ce", "kd": "train_kd", "rrd_kl": "train_rrd_kl"}


class Interrupted(Exception):
    """Raised by whoever serves the batches: training stops between two steps, where it can go on later."""


@dataclass
class Part:
    """Of an epoch that is not finished: its first ``steps`` are done."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the steps' terms

    def add(self, terms: dict[str, Tensor], images: int) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term.clone()
        self.steps += 1
        self.images += images


class Training:
    """A distiller in training: its optimizer, and how many epochs and steps of the next one it has behind it.

    Where torch.distributed runs, every rank holds one of these and gradients are averaged over the ranks. Batch norm
    is synchronised on CUDA; elsewhere it normalises over a rank's own slice, and its running statistics are averaged
    at the end of an epoch. A lone process on CUDA records its step as a graph.
    """

    def __init__(self, config: TrialConfig, distiller: Distiller, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.epoch = 0  # epochs done
        self.part = Part()  # of the next
        self.distributed = world_size() > 1
        if self.distributed and device.type == "cuda":
            distiller = nn.SyncBatchNorm.convert_sync_batchnorm(distiller)
        self.distiller = on_device(distiller, device)
        graphed = device.type == "cuda" and not self.distributed
        self.optimizer = SGD(config.optimizer, self.distiller.parameters(), on_device=graphed)
        self._graph = StepGraph() if graphed else None
        self._forward: nn.Module = self.distiller
        if self.distributed:
            ids = [device.index] if device.type == "cuda" else None
            self._forward = nn.parallel.DistributedDataParallel(self.distiller, device_ids=ids, broadcast_buffers=False)

    def train_epoch(self, batches: Iterable[Batch], teacher: Teacher) -> dict[str, float]:
        """Train the rest of an epoch; means over its steps and ranks by the metrics' names. The only sync is at its
        end. ``batches`` are those behind the first ``part.steps``; what they raise leaves ``part`` to go on from."""
        self.distiller.train()
        self.optimizer.set_rate(learning_rate(self.config, self.epoch + 1))
        part, started = self.part, time.perf_counter()
        try:
            for batch in batches:
                part.add(self.step(batch, teacher), len(batch.labels))
        finally:
            part.seconds += time.perf_counter() - started
        started = time.perf_counter()
        if self.distributed:
            _average_running_statistics(self.distiller)
        sums = torch.stack(list(part.sums.values())).double()
        means = (sum_over_ranks(sums) / (part.steps * world_size())).tolist()
        metrics = {SHOWN_AS.get(name, name): mean for name, mean in zip(part.sums, means, strict=True)}
        seconds = part.seconds + time.perf_counter() - started
        metrics["images_per_second"] = part.images * world_size() / seconds
        self.epoch, self.part = self.epoch + 1, Part()
        return metrics

    def step(self, batch: Batch, teacher: Teacher) -> dict[str, Tensor]:
        """Train on one batch; its loss terms, detached. They may be overwritten by the next step."""
        batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
        says = teacher(batch) if self.distiller.needs_teacher else None
        return self._update(batch, says) if self._graph is None else self._graph(self._update, batch, says)

    def _update(self, batch: Batch, says: Outputs | None) -> dict[str, Tensor]:
        with autocast(self.config.precision, self.device):
            terms: dict[str, Tensor] = self._forward(batch, says)
        self.optimizer.zero_grad()
        terms["loss"].backward()
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that training goes on from: weights, batch norm statistics, queue, momentum, epochs and steps done."""
        distiller, optimizer = self.distiller.state_dict(), self.optimizer.state_dict()
        return {"epoch": self.epoch, "part": asdict(self.part), "distiller": distiller, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.part = state["epoch"], Part(**state["part"])
        self.part.sums = {name: total.to(self.device) for name, total in self.part.sums.items()}
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])


def on_device(module: AnyModule, device: torch.device) -> AnyModule:
    """There, and with its convolutions' weights in the order in which images come: channels last."""
    return module.to(device).to(memory_format=torch.channels_last)


def learning_rate(config: TrialConfig, epoch: int) -> float:
    """That of ``epoch``, counted from 1."""
    return config.optimizer.learning_rate * rate_factor(config.schedule, epoch, config.epochs)


def rate_factor(schedule: ScheduleConfig, epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in ``epoch``, counted from 1."""
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
    passed = sum(epoch > milestone * epochs for milestone in schedule.milestones)
    return schedule.factor**passed


@torch.inference_mode()
def evaluate(student: nn.Module, batches: Iterable[Batch], precision: str) -> dict[str, float]:
    """Top-1 and top-5 accuracy (fractions) and mean cross-entropy over all images of all ranks' batches."""
    student.eval()
    sums = None
    for batch in batches:
        with autocast(precision, batch.images.device):
            logits = student(batch.images.contiguous(memory_format=torch.channels_last)).logits.float()  # [B, C]
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]  # [B, 5]
        loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        counts = [top[:, 0].sum(), top.sum(), loss, loss.new_tensor(len(logits))]
        counted = torch.stack([count.double() for count in counts])
        sums = counted if sums is None else sums + counted
    if sums is None:  # a rank without images still takes part in the sum
        sums = torch.zeros(4, dtype=torch.float64, device=next(student.parameters()).device)
    first, five, total, images = sum_over_ranks(sums).tolist()
    return {"val_accuracy": first / images, "val_accuracy_top5": five / images, "val_loss": total / images}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _average_running_statistics(module: nn.Module) -> None:
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            dist.all_reduce(buffer)
            buffer /= world_size()

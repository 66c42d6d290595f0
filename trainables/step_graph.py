"""A training step as one CUDA graph: small batches make a GPU wait for hundreds of launches a step; a replay is one."""

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainables.outputs import Batch, Outputs

Update = Callable[[Batch, Outputs | None], dict[str, Tensor]]
WARM_STEPS = 3  # taken one by one, on a stream of their own, before the recording, as CUDA wants it
log = logging.getLogger(__name__)


class StepGraph:
    """Called with ``update``, the step, and what it takes: records it once and then replays it; batches must all be of
    one shape. It does not keep ``update``, whose owner keeps it: on a GPU what waits for Python's garbage collector
    fills the memory of the next trials.

    A recording belongs to one trial's weights and takes about as long as ten steps, so nothing is compiled for a trial:
    what changes between steps, the learning rate, is a scalar on the device. Where CUDA refuses to record, the steps
    are taken one by one, and the log says so. The terms that it returns are overwritten by the next step.
    """

    def __init__(self) -> None:
        self._replay: Callable[[], None] | None = None
        self._inputs: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}
        self._taken = 0

    def __call__(self, update: Update, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        self._taken += 1
        if self._taken <= WARM_STEPS:
            return self._aside(update, batch, teacher)
        if self._taken == WARM_STEPS + 1:
            self._record(update, batch, teacher)
        if self._replay is None:  # CUDA has refused
            return update(batch, teacher)
        for static, tensor in zip(self._inputs, _tensors(batch, teacher), strict=True):
            static.copy_(tensor)
        self._replay()
        return self._terms

    def _record(self, update: Update, batch: Batch, teacher: Outputs | None) -> None:
        self._inputs = [tensor.clone() for tensor in _tensors(batch, teacher)]
        try:
            self._replay = self._recorded(update, *_like(batch, teacher, self._inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("this step cannot be a CUDA graph (%s): its operations are launched one by one", str(error))
            self._inputs, self._terms = [], {}

    def _aside(self, update: Update, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            terms = update(batch, teacher)
        current.wait_stream(aside)
        return terms

    def _recorded(self, update: Update, batch: Batch, teacher: Outputs | None) -> Callable[[], None]:
        """Record the step on these tensors, without taking it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._terms = update(batch, teacher)
        return graph.replay


def _tensors(batch: Batch, teacher: Outputs | None) -> list[Tensor]:
    said: Iterable[Tensor] = () if teacher is None else (*teacher.maps, teacher.embedding, teacher.logits)
    return [*batch, *said]


def _like(batch: Batch, teacher: Outputs | None, tensors: list[Tensor]) -> tuple[Batch, Outputs | None]:
    """The inverse of ``_tensors``."""
    fields = len(batch)
    if teacher is None:
        return Batch(*tensors[:fields]), None
    *maps, embedding, logits = tensors[fields:]
    return Batch(*tensors[:fields]), Outputs(tuple(maps), embedding, logits)

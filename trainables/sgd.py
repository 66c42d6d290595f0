"""Stochastic gradient descent with momentum, as PyTorch's function of that name computes it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from trainables.config import OptimizerConfig


class SGD:
    """``torch.optim.SGD`` for one group of parameters, without its class: the first call of any method of that imports
    PyTorch's compiler, which takes 2.5 s of a core, in each process.

    Weight decay falls on everything that is trained, batch norm and biases included, as in the papers. ``on_device``:
    one kernel that reads the learning rate from the device, so that it can be recorded in a graph.
    """

    def __init__(self, config: OptimizerConfig, parameters: Iterable[Tensor], on_device: bool = False) -> None:
        self.config = config
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.momentum: list[Tensor | None] = [None] * len(self.parameters)  # buffers; None before the first step
        self._fused = True if on_device else None  # None: as PyTorch chooses
        first = self.parameters[0]
        self._rate = torch.tensor(config.learning_rate, device=first.device) if on_device else config.learning_rate

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on, where it is kept: a recorded step reads it there."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update with the gradients that the parameters hold, each of them one."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        assert len(gradients) == len(self.parameters), "a parameter that is trained has no gradient"
        sgd(
            self.parameters,
            gradients,
            self.momentum,
            fused=self._fused,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            lr=self._rate,
            dampening=0.0,
            nesterov=self.config.nesterov,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": self.momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that may have been written on another device."""
        held = zip(state["momentum"], self.parameters, strict=True)
        self.momentum = [None if buffer is None else buffer.to(like.device, copy=True) for buffer, like in held]

"""The update is PyTorch's own, bit for bit, and a trial starts without PyTorch's compiler."""

import subprocess
import sys

import pytest
import torch

from trainables.config import OptimizerConfig
from trainables.sgd import SGD

CONFIGS = [
    OptimizerConfig(),
    OptimizerConfig(nesterov=True, weight_decay=1e-3),
    OptimizerConfig(momentum=0, weight_decay=0),
]
A_TRIAL = """
import sys, tempfile
from pathlib import Path
from trainables.config import RRD, DataConfig, TrialConfig
from trainables.places import Places
from trainables.trial import run
from trainables.worker import Task
from trainables.resources import Resources
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    config = TrialConfig(
        data=DataConfig(name="digits", image_size=16, held_out=0.6), student="resnet8", epochs=2,
        loss=RRD.Config(weight=0), ce_weight=1, kd_weight=0,
    )
    task = Task(config=config, places=Places(storage=folder, data_root=folder), folder=folder / "t", rungs=(1,))
    for report in run(task, Resources()):
        pass
print(sorted(name for name in ("torch._dynamo", "ray.train.torch") if name in sys.modules))
"""


@pytest.mark.parametrize("config", CONFIGS, ids=["momentum", "nesterov", "plain"])
@pytest.mark.parametrize("on_device", [False, True], ids=["plain", "on device"])
def test_it_is_pytorchs_own(config: OptimizerConfig, on_device: bool) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.linspace(-1, 1, n)) for n in (3, 5)] for _ in range(2))
    optimizer = SGD(config, ours, on_device)
    reference = torch.optim.SGD(
        theirs,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=on_device,
    )
    for step in range(4):
        if step == 2:
            reference.param_groups[0]["lr"] = 0.01
            state, optimizer = optimizer.state_dict(), SGD(config, ours, on_device)
            optimizer.set_rate(0.01)
            optimizer.load_state_dict(state)
        for parameters, other in ((ours, optimizer), (theirs, reference)):
            other.zero_grad()
            sum((parameter**3).sum() for parameter in parameters).backward()
            other.step()
    for mine, yours in zip(ours, theirs, strict=True):
        assert torch.equal(mine, yours)


def test_it_takes_what_is_trained() -> None:
    trained, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    assert len(SGD(OptimizerConfig(), [trained, frozen]).parameters) == 1


def test_a_trial_does_without_the_compiler() -> None:
    """Its import takes 2.5 s of a core, in each process of a search, before the first step."""
    done = subprocess.run([sys.executable, "-c", A_TRIAL], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr

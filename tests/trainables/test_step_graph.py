"""A recorded step trains like the step itself. CUDA's own part is played here by a closure over the same tensors, which
is what a graph is: the same operations on the same addresses."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.config import KD, RRD, DataConfig, OptimizerConfig, ScheduleConfig, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_training
from trainables.distiller import Distiller
from trainables.loop import Training
from trainables.models import MODELS
from trainables.outputs import Batch, Outputs
from trainables.sgd import SGD
from trainables.step_graph import WARM_STEPS, StepGraph, Update
from trainables.teacher import LiveTeacher

CPU = torch.device("cpu")
CONFIG = TrialConfig(
    data=DataConfig(name="digits", image_size=16, held_out=0.6),
    teacher=TeacherConfig(architecture="resnet8"),
    loss=RRD.Config(queue_size=100, projection_dim=16),
    kd_weight=0.5,
    schedule=ScheduleConfig(milestones=(0.5,)),
    optimizer=OptimizerConfig(learning_rate=0.02),
    epochs=2,
)


class OnCPU(StepGraph):
    recordings = 0

    def _aside(self, update: Update, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        return update(batch, teacher)

    def _recorded(self, update: Update, batch: Batch, teacher: Outputs | None) -> Callable[[], None]:
        self.recordings += 1

        def replay() -> None:
            self._terms = update(batch, teacher)

        return replay


class Refused(OnCPU):
    def _recorded(self, update: Update, batch: Batch, teacher: Outputs | None) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


class Full(OnCPU):
    def _recorded(self, update: Update, batch: Batch, teacher: Outputs | None) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")


def trained(tmp_path: Path, config: TrialConfig, graph: type[StepGraph] | None) -> tuple[Training, list[dict]]:
    torch.set_num_threads(1)
    images = load_training(config.data, tmp_path, tmp_path)
    training = Training(config, Distiller(config, 10), CPU)
    if graph is not None:
        training._graph = graph()
    torch.manual_seed(3)
    teacher = LiveTeacher(MODELS["resnet8"](num_classes=10), config.precision, CPU)
    batches = Batches(images.part, config.data, images.train_ids)
    curve = [training.train_epoch(batches.epoch(epoch, config.batch_size), teacher) for epoch in (1, 2)]
    return training, [{name: one[name] for name in one if name != "images_per_second"} for one in curve]


@pytest.mark.parametrize("loss", [CONFIG.loss, KD.Config(), RRD.Config(weight=0)], ids=["rrd", "kd", "alone"])
@pytest.mark.parametrize("graph", [OnCPU, Refused])
def test_it_trains_like_the_step_itself(loss: RRD.Config | KD.Config, graph: type[StepGraph], tmp_path: Path) -> None:
    alone = isinstance(loss, RRD.Config) and not loss.weight
    config = CONFIG.with_values({"kd_weight": 0.0}) if alone else CONFIG
    config = TrialConfig.from_dict({**config.to_dict(), "loss": {"name": loss.name, **loss.__dict__}})
    plain, curve = trained(tmp_path, config, None)
    graphed, same_curve = trained(tmp_path, config, graph)
    assert curve == same_curve
    for name, tensor in plain.distiller.state_dict().items():
        assert torch.equal(tensor, graphed.distiller.state_dict()[name]), name


def test_it_is_recorded_once_after_warming(tmp_path: Path) -> None:
    training, _ = trained(tmp_path, CONFIG, OnCPU)
    graph = training._graph
    assert isinstance(graph, OnCPU)
    assert graph.recordings == 1
    assert graph._taken > WARM_STEPS


def test_the_learning_rate_is_a_scalar_on_the_device(tmp_path: Path) -> None:
    """The one-kernel optimizer with a rate on the device trains as the plain one, and keeps the rate's place."""
    plain, _ = trained(tmp_path, CONFIG, None)
    images = load_training(CONFIG.data, tmp_path, tmp_path)
    training = Training(CONFIG, Distiller(CONFIG, 10), CPU)
    training.optimizer = SGD(CONFIG.optimizer, training.distiller.parameters(), on_device=True)
    torch.manual_seed(3)
    teacher = LiveTeacher(MODELS["resnet8"](num_classes=10), "float32", CPU)
    batches = Batches(images.part, CONFIG.data, images.train_ids)
    training.train_epoch(batches.epoch(1, 64), teacher)
    rate = training.optimizer._rate
    assert isinstance(rate, torch.Tensor)
    assert rate.item() == pytest.approx(0.02)
    training.train_epoch(batches.epoch(2, 64), teacher)
    assert training.optimizer._rate is rate
    assert rate.item() == pytest.approx(0.002)
    for name, tensor in plain.distiller.state_dict().items():
        torch.testing.assert_close(tensor, training.distiller.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_checkpoint_of_another_device_keeps_this_ones_optimizer(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path, CONFIG, None)
    training = Training(CONFIG, Distiller(CONFIG, 10), CPU)
    training.optimizer = SGD(CONFIG.optimizer, training.distiller.parameters(), on_device=True)
    training.load_state_dict(plain.state_dict())
    assert training.optimizer._fused
    assert training.epoch == 2
    for trained_on in (plain, training):  # a step that only momentum takes
        trained_on.optimizer.set_rate(0.1)
        for parameter in trained_on.optimizer.parameters:
            parameter.grad = torch.zeros_like(parameter)
        trained_on.optimizer.step()
    for name, tensor in plain.distiller.state_dict().items():
        torch.testing.assert_close(tensor, training.distiller.state_dict()[name], msg=name)


def test_a_device_that_is_full_is_no_step_that_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, CONFIG, Full)


@pytest.mark.parametrize("graph", [None, Refused], ids=["plain", "refused"])
def test_what_training_held_is_free_without_the_garbage_collector(
    graph: type[StepGraph] | None, tmp_path: Path
) -> None:
    """On a GPU what waits for it fills the memory of the next trials in this process."""
    training, _ = trained(tmp_path, CONFIG, graph)
    held = weakref.ref(training)
    gc.disable()
    try:
        del training
        assert held() is None
    finally:
        gc.enable()

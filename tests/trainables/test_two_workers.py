"""Two gloo workers against one: the same global batches give the same losses, gradients and queue.

Batch norm is replaced by group norm: without CUDA it cannot be synchronised, and then normalises over half the batch.
In float64, since in float32 a ReLU that turns by rounding moves weights by 1e-4 within 20 steps.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from trainables.config import RRD, DataConfig, OptimizerConfig, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_training
from trainables.distiller import Distiller
from trainables.loop import Training
from trainables.models import MODELS
from trainables.outputs import Batch, Outputs
from trainables.places import Places
from trainables.ranks import own_rank, sum_over_ranks, world_size
from trainables.teacher import LiveTeacher
from trainables.teacher_table import TeacherTable

CPU = torch.device("cpu")
STEPS = 20
Work = Callable[[TrialConfig, Places], dict[str, torch.Tensor]]


def config_of(enqueue: str) -> TrialConfig:
    loss = RRD.Config(queue_size=100, projection_dim=16, enqueue=enqueue, student_temperature=0.1)  # wraps in a batch
    return TrialConfig(
        data=DataConfig(name="digits", held_out=0.25),
        teacher=TeacherConfig(table_precision="float32"),
        loss=loss,
        optimizer=OptimizerConfig(learning_rate=0.01),
        batch_size=64,
        epochs=4,
    )


def without_batch_norm(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(4, child.num_features))
        else:
            without_batch_norm(child)
    return module


class Single:
    """A teacher that is shown float32 images, as ever."""

    def __init__(self, teacher: Callable[[Batch], Outputs]) -> None:
        self.teacher = teacher

    def __call__(self, batch: Batch) -> Outputs:
        return self.teacher(batch._replace(images=batch.images.float()))


def train(config: TrialConfig, places: Places) -> dict[str, torch.Tensor]:
    """20 steps on this rank's slices; the losses of the global batches, the final queue and the student's weights."""
    torch.set_num_threads(1)
    images = load_training(config.data, places.storage, places.data_root)
    distiller = without_batch_norm(Distiller(config, len(images.part.classes))).double()
    training = Training(config, distiller, CPU)
    torch.manual_seed(7)
    teacher = LiveTeacher(MODELS[config.teacher.architecture](num_classes=10), config.precision, CPU)
    batches = Batches(images.part, config.data, images.train_ids, CPU)
    table = TeacherTable(config, teacher, batches, places)
    losses: list[torch.Tensor] = []
    training.distiller.train()
    for epoch in (1, 2):
        source = table.epoch(epoch, 2) if world_size() > 1 else teacher  # two ranks compute the table together
        for batch in batches.epoch(epoch, config.batch_size, own_rank(), world_size()):
            if len(losses) < STEPS:
                loss = training.step(batch._replace(images=batch.images.double()), Single(source))["loss"]
                losses.append(sum_over_ranks(loss.clone()) / world_size())
    memory = training.distiller.loss.memory
    weights = torch.cat([weight.detach().flatten() for weight in training.distiller.parameters()])
    shown = sum_over_ranks(torch.tensor(teacher.images))
    return {"losses": torch.stack(losses), "queue": memory.queue, "weights": weights, "shown": shown}


def rows_of_two_epochs(config: TrialConfig, places: Places) -> dict[str, torch.Tensor]:
    """What the table says of the first images in the views of two epochs."""
    torch.manual_seed(7)
    images = load_training(config.data, places.storage, places.data_root)
    teacher = LiveTeacher(MODELS["resnet8"](num_classes=10), config.precision, CPU)
    batches = Batches(images.part, config.data, images.train_ids, CPU)
    table = TeacherTable(config, teacher, batches, places)
    said = [table.epoch(epoch, 2)(next(iter(batches.epoch(epoch, 8)))).embedding for epoch in (1, 2)]
    assert list(table._rows) == [2], "one epoch's rows at a time"
    assert not table._rows[2].flags.writeable, "mapped, not held"
    return {"said": torch.cat(said), "shown": torch.tensor(teacher.images)}


def one_rank(rank: int, work: Work, config: TrialConfig, folder: Path, places: list[Places]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    torch.save(work(config, places[rank]), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def on_two_ranks(work: Work, config: TrialConfig, folder: Path, places: list[Places]) -> list[dict[str, torch.Tensor]]:
    (folder / "meet").unlink(missing_ok=True)
    mp.spawn(one_rank, (work, config, folder, places), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("enqueue", ["after", "before"])
def test_two_workers_train_like_one(enqueue: str, tmp_path: Path) -> None:
    config, places = config_of(enqueue), Places(storage=tmp_path, data_root=tmp_path)
    alone = train(config, places)
    first, second = on_two_ranks(train, config, tmp_path, [places, places])
    assert torch.equal(first["queue"], second["queue"])
    assert torch.equal(first["weights"], second["weights"])
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=0, atol=1e-9)
    torch.testing.assert_close(first["queue"], alone["queue"], rtol=0, atol=1e-9)
    torch.testing.assert_close(first["weights"], alone["weights"], rtol=0, atol=1e-9)
    images = len(load_training(config.data, tmp_path, tmp_path).train_ids)
    assert first["shown"] == 2 * (images + images % 2) + 2 * 16, "each rank its half, and a sample checked"


@pytest.mark.slow
def test_machines_with_storages_of_their_own_send_each_other_the_tables_files(tmp_path: Path) -> None:
    config, remote = config_of("after"), f"file://{tmp_path / 'there'}"
    machines = [Places(storage=tmp_path / name, data_root=tmp_path, remote=remote) for name in ("one", "other")]
    both = [["epoch-0001.arrow", "epoch-0002.arrow"]] * 2

    def files() -> list[list[str]]:
        return [sorted(file.name for file in machine.storage.glob("tables/*/*.arrow")) for machine in machines]

    first, second = on_two_ranks(rows_of_two_epochs, config, tmp_path, machines)
    assert torch.equal(first["said"], second["said"])
    assert files() == both
    next(machines[0].storage.glob("tables/*/epoch-0001.arrow")).unlink()
    next(machines[1].storage.glob("tables/*/epoch-0002.arrow")).unlink()
    for again in on_two_ranks(rows_of_two_epochs, config, tmp_path, machines):
        assert torch.equal(again["said"], first["said"])
        assert again["shown"] == 16, "nothing was computed, a sample checked"
    assert files() == both


def test_a_batch_that_the_workers_do_not_divide_is_an_error(tmp_path: Path) -> None:
    config = dataclasses.replace(config_of("after"), batch_size=63)
    images = load_training(config.data, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="multiple of the number of workers, 2, got 63"):
        next(iter(Batches(images.part, config.data, images.train_ids).epoch(1, 63, 0, 2)))

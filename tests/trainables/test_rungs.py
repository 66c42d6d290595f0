"""Where rungs lie, and that the averaged student is the mean of the epoch's weights and leaves training alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainables.config import RRD, DataConfig, ScheduleConfig, TeacherConfig, TrialConfig
from trainables.outputs import Batch
from trainables.places import Places
from trainables.rungs import WeightAverage, rungs
from trainables.worker import Task, Worker

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(240, (27, 80, 155)), (60, (7, 20, 38)), (18, (2, 6, 12)), (5, (1, 2)), (3, (1, 2)), (2, (1,)), (1, ())],
)
def test_rungs_of_a_step_schedule(epochs: int, expected: tuple[int, ...]) -> None:
    assert rungs(TrialConfig(epochs=epochs)) == expected


def test_rungs_of_other_schedules() -> None:
    assert rungs(TrialConfig(schedule=ScheduleConfig(kind="cosine"))) == (27, 80)
    assert rungs(TrialConfig(schedule=ScheduleConfig(milestones=()))) == (27, 80)
    assert rungs(TrialConfig(schedule=ScheduleConfig(milestones=(0.3, 0.6)))) == (27, 80), "the drop is before a third"
    assert rungs(TrialConfig(schedule=ScheduleConfig(milestones=(0.9,)))) == (27, 80), "a stop would save little"


class Line(nn.Module):
    """One weight and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images)


def test_the_average_is_the_mean_over_the_steps() -> None:
    torch.manual_seed(0)
    labels = torch.zeros(150)
    batches = [Batch(images, labels, labels) for images in torch.randn(4, 150, 3, 2, 2)]
    line = Line()
    average = WeightAverage(line)
    for step, batch in enumerate(average.over(batches)):
        assert batch is batches[step]
        line.weight.data.fill_(step + 1)
    student = average.student(batches, "float32", CPU)
    assert student.weight.item() == pytest.approx(2.5)
    assert line.weight.item() == 4
    seen = torch.cat([batch.images for batch in batches[:2]])  # 300 images, of at least 256
    assert torch.allclose(student.norm.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.equal(line.norm.running_mean, torch.zeros(3))


def test_training_is_the_same_with_and_without_rungs(tmp_path: Path) -> None:
    places = Places(storage=tmp_path, data_root=tmp_path)
    data = DataConfig(name="digits", held_out=0.75)
    config = TrialConfig(data=data, teacher=TeacherConfig(), loss=RRD.Config(weight=0), epochs=2)
    plain = Worker(Task(config=config, places=places, folder=tmp_path / "plain"), CPU)
    task = Task(config=config, places=places, folder=tmp_path / "rungs", rungs=(2,))
    compared = Worker(task, CPU, plain.materials)
    for worker in (plain, compared):
        worker.epoch()
    compared.write_checkpoint()
    resumed = Worker(task, CPU, plain.materials)
    for worker in (plain, compared, resumed):
        worker.epoch()
    states = [flat(worker.training.state_dict()) for worker in (plain, compared)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    new = [set(metrics) ^ set(plain.curve[0]) for metrics in compared.curve]
    assert new == [set(), {"averaged_val_accuracy"}]
    assert 0 < compared.curve[1]["averaged_val_accuracy"] <= 1
    assert resumed.curve[1]["averaged_val_accuracy"] == compared.curve[1]["averaged_val_accuracy"]


def flat(state: object, place: str = "") -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {place: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: one for key, value in items for name, one in flat(value, f"{place}.{key}").items()}

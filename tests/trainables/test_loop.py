"""The learning rate's schedule, accuracies, and that a loss of weight 0 does not exist."""

import pytest
import torch
from torch import nn

from trainables.config import RRD, DataConfig, ScheduleConfig, TrialConfig
from trainables.distiller import Distiller
from trainables.loop import evaluate, rate_factor
from trainables.outputs import Batch, Outputs


def test_steps_come_after_their_milestones() -> None:
    schedule = ScheduleConfig()
    factors = {epoch: rate_factor(schedule, epoch, 240) for epoch in (1, 150, 151, 180, 181, 210, 211, 240)}
    expected = {1: 1, 150: 1, 151: 0.1, 180: 0.1, 181: 0.01, 210: 0.01, 211: 0.001, 240: 0.001}
    assert factors == pytest.approx(expected)


def test_cosine_goes_from_the_rate_to_near_0() -> None:
    schedule = ScheduleConfig(kind="cosine")
    factors = [rate_factor(schedule, epoch, 10) for epoch in range(1, 11)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert factors[5] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.03


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> Outputs:
        logits = images[:, 0, 0]  # [B, C]
        return Outputs((), logits, logits)


@pytest.mark.parametrize("classes", [3, 7])
def test_accuracies_equal_a_slow_count(classes: int) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(50, 3, 1, classes), torch.randint(0, classes, (50,))
    batches = [Batch(i, y, y) for i, y in zip(images.split(16), labels.split(16), strict=True)]
    metrics = evaluate(Fixed(), batches, "float32")
    logits = images[:, 0, 0]
    ranks = [sorted(row.tolist(), reverse=True).index(row[y].item()) for row, y in zip(logits, labels, strict=True)]
    assert metrics["val_accuracy"] == pytest.approx(sum(rank < 1 for rank in ranks) / 50)
    assert metrics["val_accuracy_top5"] == pytest.approx(sum(rank < 5 for rank in ranks) / 50)
    assert metrics["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())


def test_terms_and_weights() -> None:
    config = TrialConfig(data=DataConfig(), loss=RRD.Config(queue_size=16, projection_dim=8, weight=2.0), kd_weight=0.5)
    distiller = Distiller(config, num_classes=10)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    teacher = Outputs((), torch.randn(4, 64), torch.randn(4, 10))
    terms = distiller(Batch(images, labels, labels), teacher)
    rrd = terms["rrd_kl"] + terms["teacher_entropy"]
    torch.testing.assert_close(terms["loss"].detach(), terms["ce"] + 0.5 * terms["kd"] + 2 * rrd)
    assert all(not term.requires_grad for name, term in terms.items() if name != "loss")
    alone = Distiller(config.with_values({"loss.weight": 0, "kd_weight": 0}), num_classes=10)
    assert not alone.needs_teacher
    assert alone(Batch(images, labels, labels), None).keys() == {"loss", "ce"}
    for name, weight in alone.student.named_parameters():  # no loss changes the student's first weights
        assert torch.equal(weight, distiller.student.get_parameter(name))

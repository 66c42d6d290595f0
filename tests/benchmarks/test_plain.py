import torch

from benchmarks.plain import PlainSettings, PlainTraining
from benchmarks.rrd_loss import both, embeddings
from trainables.models import MODELS


def test_the_plain_loss_is_ours() -> None:
    """With the same projections and queue, over several batches that each enter the queue first."""
    losses = both(batch_size=16, queue_size=64, projection_dim=8)
    for seed in range(6):  # the queue wraps
        student, teacher = embeddings(16, seed)
        plain, here = (losses[side](student, teacher) for side in ("plain", "here"))
        torch.testing.assert_close(here, plain, rtol=1e-6, atol=0)
        of_plain, of_here = (torch.autograd.grad(loss, student)[0] for loss in (plain, here))
        torch.testing.assert_close(of_here, of_plain, rtol=1e-4, atol=1e-7)


def test_the_plain_recipe_learns() -> None:
    torch.manual_seed(0)
    teacher = MODELS["resnet8"](num_classes=2)
    settings = PlainSettings(queue_size=32, rrd_weight=0.1)
    training = PlainTraining("resnet8", teacher, 2, settings, torch.device("cpu"))
    labels = torch.tensor([0, 1] * 8)
    images = torch.randn(16, 3, 16, 16) + labels[:, None, None, None] * 2.0
    means = [training.train_epoch([(images, labels)] * 2) for _ in range(3)]
    assert means[-1]["loss"] < means[0]["loss"]
    assert means[-1]["top1"] > 90
    teacher_head = training.rrd.teacher_projection.weight
    assert teacher_head.grad is None, "the recipe never trains it"
    assert 0 <= training.validate([(images, labels)]) <= 1

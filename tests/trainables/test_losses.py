"""The losses against reference vectors in float64, a slow obvious version, and the contract of the registry."""

import hashlib
import json
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.losses import LOSSES
from trainables.losses.kd import KD
from trainables.losses.memory import Memory
from trainables.losses.rrd import BLOCK_SIMILARITIES, RRD, RelationalCrossEntropy
from trainables.outputs import Outputs

VECTORS = json.loads((Path(__file__).parents[1] / "reference" / "rrd_vectors.json").read_text())


def normal(name: str, *shape: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.from_numpy(numpy.random.Generator(numpy.random.PCG64(seed)).standard_normal(shape))


def outputs(embedding: Tensor | None = None, logits: Tensor | None = None) -> Outputs:
    nothing = torch.empty(0, dtype=torch.float64)
    return Outputs((), nothing if embedding is None else embedding, nothing if logits is None else logits)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def rrd_of(case: dict, name: str) -> RRD:
    config = RRD.Config(**{key: case[key] for key in ("student_temperature", "teacher_temperature", "queue_size")},
                        projection_dim=case["projection_dim"], enqueue=case["enqueue"])  # fmt: skip
    loss = RRD(config, student_dim=case["student_dim"], teacher_dim=case["teacher_dim"]).double()
    with torch.no_grad():
        for side, dim in (("student", case["student_dim"]), ("teacher", case["teacher_dim"])):
            projection = getattr(loss, f"{side}_projection")
            projection.weight.copy_(normal(f"{name}/{side}_projection.weight", case["projection_dim"], dim) / dim**0.5)
            projection.bias.copy_(0.1 * normal(f"{name}/{side}_projection.bias", case["projection_dim"]))
        loss.memory.queue.copy_(F.normalize(normal(f"{name}/queue", case["queue_size"], case["projection_dim"]), dim=1))
    return loss


@pytest.mark.parametrize("case", VECTORS["rrd"], ids=lambda case: f"{case['case']}-{case['enqueue']}")
def test_rrd_equals_the_reference(case: dict) -> None:
    name = case["case"]
    loss = rrd_of(case, name)
    for k, expected in enumerate(case["steps"]):
        student = normal(f"{name}/student_features/{k}", case["batch"], case["student_dim"]).requires_grad_()
        teacher = normal(f"{name}/teacher_features/{k}", case["batch"], case["teacher_dim"])
        loss.zero_grad()
        value = loss(outputs(student), outputs(teacher), None)
        value.backward()
        projection = loss.student_projection
        assert student.grad is not None
        close(value.detach(), expected["loss"])
        close(loss.last["rrd_kl"], expected["kl"])
        close(loss.last["teacher_entropy"], expected["teacher_entropy"])
        close(student.grad.norm(), expected["grad_student_features_norm"])
        close(student.grad[0], expected["grad_student_features_row0"])
        close(projection.weight.grad.norm(), expected["grad_student_projection_weight_norm"])
        close(projection.bias.grad, expected["grad_student_projection_bias"])
    close(loss.memory.queue.sum(0), case["queue_after_sum"])
    close(loss.memory.queue[0], case["queue_after_row0"])
    assert loss.memory.position == case["queue_pointer_after"]


@pytest.mark.parametrize("case", VECTORS["kd"], ids=lambda case: case["case"])
def test_kd_equals_the_reference(case: dict) -> None:
    student = (3 * normal(case["case"] + "/student_logits", case["batch"], case["classes"])).requires_grad_()
    teacher = 3 * normal(case["case"] + "/teacher_logits", case["batch"], case["classes"])
    value = KD(KD.Config(temperature=case["temperature"]))(outputs(logits=student), outputs(logits=teacher))
    value.backward()
    assert student.grad is not None
    close(value.detach(), case["loss"])
    close(student.grad.norm(), case["grad_norm"])
    close(student.grad[0, :5], case["grad_row0_first5"])


def test_rrd_gradient_equals_autograd_of_the_plain_form() -> None:
    config = RRD.Config(queue_size=50, projection_dim=6, student_projection="mlp")
    loss = RRD(config, student_dim=10, teacher_dim=12).double()
    student, teacher = torch.randn(8, 10, dtype=torch.float64), torch.randn(8, 12, dtype=torch.float64)
    queue = loss.memory.queue.clone()
    ours = torch.autograd.grad(loss(outputs(student), outputs(teacher)), list(loss.student_projection.parameters()))
    student_unit = F.normalize(loss.student_projection(student), dim=1)
    p_teacher = F.softmax(F.normalize(loss.teacher_projection(teacher), dim=1) @ queue.T / 0.10, dim=1)
    plain = -(p_teacher * F.log_softmax(student_unit @ queue.T / 0.04, dim=1)).sum(1).mean()
    theirs = torch.autograd.grad(plain, list(loss.student_projection.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("temperatures", [(0.04, 0.10), (0.10, 0.02), (0.01, 0.01), (1.0, 1.0)], ids=str)
@pytest.mark.parametrize("size", [1300, 4 * (BLOCK_SIMILARITIES // 140), 40000])
def test_blocks_of_a_large_queue_give_what_the_whole_gives(temperatures: tuple[float, float], size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher, queue = (
        F.normalize(torch.randn(rows, 16, generator=generator), dim=1) for rows in (70, 70, size)
    )
    student[0] = -queue[0]  # as unlike as can be: all its exponents but the largest vanish
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    log_student = F.log_softmax(exact @ queue.double().T / temperatures[0], dim=1)
    p_teacher = F.softmax(teacher.double() @ queue.double().T / temperatures[1], dim=1)
    expected = -(p_teacher * log_student).sum(1).mean()
    loss, entropy = RelationalCrossEntropy.apply(student, teacher, queue, *temperatures)
    (ours,), (theirs,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy.double(), -(p_teacher * p_teacher.log()).sum(1).mean(), rtol=1e-5, atol=1e-7)
    assert ((ours.double() - theirs).norm() / theirs.norm()).item() <= 1e-5


@pytest.mark.parametrize(("size", "batches"), [(8, [3, 3, 3]), (5, [7]), (4, [4, 4]), (6, [6, 13, 2]), (1, [3, 1])])
def test_memory_keeps_the_newest_in_order(size: int, batches: list[int]) -> None:
    memory = Memory(size, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(memory.queue.norm(dim=1), torch.ones(size))
    slow, position, number = memory.queue.clone(), 0, 0
    for count in batches:
        vectors = torch.arange(number, number + count).float()[:, None].expand(-1, 2)
        number += count
        memory.push(vectors)
        for vector in vectors:
            slow[position] = vector
            position = (position + 1) % size
    torch.testing.assert_close(memory.queue, slow)
    assert memory.position == position


def test_nothing_is_written_in_evaluation() -> None:
    loss = RRD(RRD.Config(queue_size=8, projection_dim=4), student_dim=6, teacher_dim=6).eval()
    before = loss.memory.queue.clone()
    loss(outputs(torch.randn(3, 6)), outputs(torch.randn(3, 6)))
    assert torch.equal(loss.memory.queue, before)


def test_the_teacher_projection_does_not_depend_on_the_student() -> None:
    config = RRD.Config(queue_size=8, projection_dim=4)
    one, other = (RRD(config, student_dim=dim, teacher_dim=6) for dim in (6, 20))
    assert torch.equal(one.teacher_projection.weight, other.teacher_projection.weight)
    assert torch.equal(one.memory.queue, other.memory.queue)
    assert not any(parameter.requires_grad for parameter in one.teacher_projection.parameters())


def test_pca_keeps_what_varies_most_and_is_centred() -> None:
    torch.manual_seed(0)
    spread = torch.tensor([5.0, 0.1, 3.0, 0.1, 0.1])
    embeddings = torch.randn(400, 5) * spread + 7
    loss = RRD(RRD.Config(queue_size=8, projection_dim=2, teacher_projection="pca"), student_dim=3, teacher_dim=5)
    assert loss.needs_preparation
    loss.prepare(embeddings)
    projected = loss.teacher_projection(embeddings)
    torch.testing.assert_close(projected.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(projected.var(0).sum(), embeddings.var(0)[[0, 2]].sum(), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher_projection": "identity", "projection_dim": 5}, "loss.projection_dim must be 6"),
        ({"teacher_projection": "pca", "projection_dim": 7}, "loss.projection_dim must be at most 6"),
    ],
)
def test_projections_that_do_not_fit(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RRD(RRD.Config(**fields), student_dim=4, teacher_dim=6)


@pytest.mark.parametrize("name", LOSSES)
def test_contract(name: str) -> None:
    """What every loss of the registry keeps to: a scalar mean, gradient to the student only, all ranks' state saved."""
    torch.manual_seed(0)
    kind = LOSSES[name]
    student, teacher = (Outputs((), torch.randn(6, dim, requires_grad=True), torch.randn(6, 4, requires_grad=True))
                        for dim in (8, 12))  # fmt: skip
    kind.Config().check_dims(8, 12)
    loss = kind.build(kind.Config(), student, teacher)
    assert kind.Config.name == name
    assert kind.needs <= set(Outputs._fields)
    value = loss(student, teacher, None)
    value.backward()
    assert value.ndim == 0
    assert torch.isfinite(value)
    assert any(tensor.grad is not None for tensor in (student.embedding, student.logits))
    assert teacher.embedding.grad is None
    assert teacher.logits.grad is None
    assert all(not term.requires_grad for term in loss.last.values())
    copy = kind.build(kind.Config(), student, teacher)
    copy.load_state_dict(loss.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(copy(student, teacher, None), loss(student, teacher, None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_related_in_full(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 8).to(dtype), torch.randn(4, 8).to(dtype)
    for kind in LOSSES.values():
        shapes = Outputs((), student, student)
        value = kind.build(kind.Config(), shapes, shapes)(Outputs((), student, student), Outputs((), teacher, teacher))
        assert value.dtype == torch.float32

"""The RRD loss with its gradient: clone and einsum under autograd against ours, their difference, their memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain import PlainRRD, PlainSettings
from benchmarks.report import Row, device, milliseconds
from benchmarks.run import main
from benchmarks.timing import ROUNDS, Apart, interleaved_apart, one_thread, settled
from trainables.losses.rrd import RRD
from trainables.outputs import Outputs

DIM = 256  # of both networks' embeddings
TARGETS = {(64, 16384, 128): 1.5, (256, 16384, 128): 2.0, (1024, 16384, 128): 2.5, (64, 65536, 128): 2.0}
DIFFERS_AT_MOST = {"loss": 1e-6, "gradient": 1e-5}  # relative
LARGE = (1024, 65536, 128)  # at which memory is compared
MEMORY_TARGET = 20.0
SIDES = ("plain", "here")
TURNS = 3  # losses and gradients a turn
Losses = dict[str, Callable[[Tensor, Tensor], Tensor]]


def rows(rounds: int = ROUNDS) -> list[Row]:
    made = []
    for shape, target in TARGETS.items():
        made += [_time_row(shape, target, rounds), *_difference_rows(shape)]
    return [*made, _memory_row()]


def both(batch_size: int, queue_size: int, projection_dim: int) -> Losses:
    """The two losses, with the same projections and the same queue, called with student's and teacher's embeddings."""
    settings = PlainSettings(queue_size=queue_size, projection_dim=projection_dim)
    assert queue_size % batch_size == 0, "the plain side takes nothing else"
    torch.manual_seed(0)
    plain = PlainRRD(settings, DIM, DIM).to(device())
    config = RRD.Config(
        student_temperature=settings.student_temperature,
        teacher_temperature=settings.teacher_temperature,
        queue_size=queue_size,
        projection_dim=projection_dim,
        enqueue="before",
    )
    here = RRD(config, student_dim=DIM, teacher_dim=DIM).to(device())
    plain.queue.copy_(here.memory.queue)
    for name in ("student_projection", "teacher_projection"):
        copied: nn.Module = getattr(here, name)
        copied.load_state_dict(getattr(plain, name).state_dict())
    nothing = torch.empty(0)
    return {
        "plain": plain,
        "here": lambda student, teacher: here(Outputs((), student, nothing), Outputs((), teacher, nothing)),
    }


def embeddings(batch_size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Of student and teacher, [B, D]; not negative, as those of networks that end in a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (F.relu(torch.randn(batch_size, DIM, generator=generator)).to(device()) for _ in SIDES)
    return student.requires_grad_(), teacher


def _time_row(shape: tuple[int, int, int], target: float, rounds: int) -> Row:
    plain_side, our_side = Apart(one_thread, _turn, shape, "plain"), Apart(settled, _turn, shape, "here")
    timings = interleaved_apart({"plain": plain_side, "here": our_side}, rounds)
    plain, here = (milliseconds(timings.median(side) / TURNS) for side in SIDES)
    ratio = timings.ratio("plain", "here")
    return Row(what="RRD loss and gradient", case=_case(shape), plain=plain, here=here, ratio=ratio, target=target)


def _turn(shape: tuple[int, int, int], side: str) -> Callable[[], object]:
    loss, (student, teacher) = both(*shape)[side], embeddings(shape[0])

    def turn() -> None:
        for _ in range(TURNS):
            loss(student, teacher).backward()

    return turn


def _difference_rows(shape: tuple[int, int, int]) -> list[Row]:
    student, teacher = embeddings(shape[0])
    found = {}
    for side, loss in both(*shape).items():
        value = loss(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        found[side] = {"loss": value.detach(), "gradient": gradient}
    made = []
    for name, target in DIFFERS_AT_MOST.items():
        plain, here = (found[side][name].double() for side in SIDES)
        difference = ((here - plain).norm() / plain.norm()).item()
        what, told = f"{name}, relative difference", [f"{value.norm().item():.6f}" for value in (plain, here)]
        made.append(
            Row(
                what=what,
                case=_case(shape),
                plain=told[0],
                here=told[1],
                ratio=difference,
                target=target,
                at_most=True,
            )
        )
    return made


def _memory_row() -> Row:
    """Each side in a process of its own."""
    peaks = {}
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.rrd_loss", "--peak", side]
        peaks[side] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    plain, here = (f"{peaks[side] / 2**20:.0f} MiB" for side in SIDES)
    ratio = peaks["plain"] / peaks["here"]
    return Row(
        what="peak memory of the RRD loss", case=_case(LARGE), plain=plain, here=here, ratio=ratio, target=MEMORY_TARGET
    )


def peak_bytes(side: str) -> int:
    """By how much a loss and its gradient raise the process's resident memory at the most. Linux only."""
    one_thread()
    student, teacher = embeddings(LARGE[0])
    small = embeddings(64)
    both(64, 128, LARGE[2])[side](*small).backward()  # libraries are loaded, and their own buffers made
    loss = both(*LARGE)[side]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _resident("VmRSS")
    loss(student, teacher).backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _case(shape: tuple[int, int, int]) -> str:
    return "B={}, K={}, d={}".format(*shape)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(peak_bytes(sys.argv[2]))
    else:
        main(rows)

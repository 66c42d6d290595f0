"""python -m benchmarks.rungs: what after a rung's epochs says best how a trial will end? About 6 minutes on one core.

Random trials on the embedded digits, one thread, learning rate and weight decay among what varies. At each rung, the
rank correlation with the accuracy after the last epoch of three things that a search could compare: the student as it
is, the averaged student, and the student of a fresh trial whose whole schedule is squeezed into so many epochs. Seen
on two CPU cores, after epoch 2, 6 and 12 of 18: as it is 0.23, 0.26, 0.56; averaged 0.27, 0.61, 0.90; compressed 0.18,
0.43, 0.72. So a search compares averaged students.
"""

import math
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rrd_search.stop_evidence import rank_correlation
from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.materials import Materials
from trainables.places import Places
from trainables.rungs import rungs
from trainables.teacher import TeacherFile, make_teacher, with_weights
from trainables.worker import Metrics, Task, Worker

TRIALS = 20
SEED = 1
CPU = torch.device("cpu")
BASE = TrialConfig(
    data=DataConfig(name="digits", image_size=16, held_out=0.625),  # 450 images train; 750 tell trials apart
    teacher=TeacherConfig(architecture="resnet8", epochs=30),
    student="resnet8",
    loss=RRD.Config(queue_size=256, projection_dim=32),
    batch_size=32,
    epochs=18,
)
RANGES = {
    "optimizer.learning_rate": (0.005, 0.5),
    "optimizer.weight_decay": (1e-5, 2e-2),
    "loss.student_temperature": (0.02, 0.3),
    "loss.teacher_temperature": (0.01, 0.2),
    "loss.weight": (0.05, 3.0),
    "kd_weight": (0.1, 3.0),
}
COMPARED = ("plain", "averaged", "compressed")


@dataclass(frozen=True)
class Seen:
    """Of one trial: accuracies by what is compared and by rung, and the accuracy at its end."""

    at_rungs: dict[str, dict[int, float]]
    final: float


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seen = measure(Path(folder))
    print(table(seen))
    print(f"{TRIALS} trials of {BASE.epochs} epochs, {time.process_time():.0f} s of one core")


def measure(storage: Path) -> list[Seen]:
    places = Places(storage=storage, data_root=storage)
    *_, teacher = make_teacher(BASE, places, CPU)
    assert isinstance(teacher, TeacherFile), "a teacher is trained to its end"
    base = with_weights(BASE, teacher.weights)
    materials = Materials(base, places, CPU)
    draw = random.Random(SEED)
    return [_seen(base.with_values(_values(draw)), places, materials) for _ in range(TRIALS)]


def table(seen: list[Seen]) -> str:
    """A row for each rung: Spearman's rank correlation with the end, by what is compared."""
    lines = [f"{'epoch':>8}" + "".join(f"{name:>14}" for name in COMPARED)]
    for epoch in rungs(BASE):
        pairs = {name: [(one.at_rungs[name][epoch], one.final) for one in seen] for name in COMPARED}
        shown = (rank_correlation(pairs[name]) for name in COMPARED)
        lines.append(f"{epoch:>8}" + "".join(f"{'-' if one is None else f'{one:.2f}':>14}" for one in shown))
    return "\n".join(lines)


def _seen(config: TrialConfig, places: Places, materials: Materials) -> Seen:
    at = rungs(config)
    curve = _train(config, at, places, materials)
    compressed = {epoch: _train(replace(config, epochs=epoch), (), places, materials)[-1] for epoch in at}
    at_rungs = {
        "plain": {epoch: curve[epoch - 1]["val_accuracy"] for epoch in at},
        "averaged": {epoch: curve[epoch - 1]["averaged_val_accuracy"] for epoch in at},
        "compressed": {epoch: metrics["val_accuracy"] for epoch, metrics in compressed.items()},
    }
    return Seen(at_rungs, curve[-1]["val_accuracy"])


def _train(config: TrialConfig, at: tuple[int, ...], places: Places, materials: Materials) -> list[Metrics]:
    """The whole curve, also of a trial that diverges."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Task(config=config, places=places, folder=Path(folder), rungs=at), CPU, materials)
        while worker.training.epoch < config.epochs:
            worker.epoch()
    return worker.curve


def _values(draw: random.Random) -> dict[str, float]:
    return {name: math.exp(draw.uniform(math.log(low), math.log(high))) for name, (low, high) in RANGES.items()}


if __name__ == "__main__":
    main()

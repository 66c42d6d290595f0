"""Whether what was exported is the student that was recorded: both of its files are read back and tried."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rrd_search.student_program import PROGRAM, WEIGHTS, load_program
from trainables.config import TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import Training
from trainables.loop import evaluate, on_device
from trainables.weights import load_network

# Another device or kernel rounds otherwise, which may turn images that two classes tie for: never more than one of a
# thousand, or, where the student was recorded in bfloat16, five.
TURNED = {"float32": 0.001, "bfloat16": 0.005}
AT_ONCE = 256  # images


def check_students(
    folder: Path, config: TrialConfig, images: Training, recorded: float, say: Callable[[str], None]
) -> dict[str, float]:
    """The held-out accuracy of both files. ValueError where one is not the recorded accuracy, to within one image (or
    the share in ``TURNED``, where that is more)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held_out = len(images.held_out_ids)
    allowed = max(1, int(TURNED[config.precision] * held_out))
    accuracies = {}
    for name, measure in ((PROGRAM, _program_accuracy), (WEIGHTS, _weights_accuracy)):
        say(f"checking {name} on {held_out} held-out images ...")
        accuracies[name] = measure(folder, config, images, device)
        if not abs(accuracies[name] - recorded) * held_out <= allowed + 1e-6:
            found, wanted = (f"{100 * accuracy:.2f} %" for accuracy in (accuracies[name], recorded))
            raise ValueError(f"{name} gives {found} on the held-out images, but the trial recorded {wanted}")
    return accuracies


@torch.inference_mode()
def _program_accuracy(folder: Path, config: TrialConfig, images: Training, device: torch.device) -> float:
    program = load_program(folder / PROGRAM).to(device)
    right = 0
    for pixels, labels in _raw_batches(images):
        right += int((program(pixels.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(images.held_out_ids)


def _weights_accuracy(folder: Path, config: TrialConfig, images: Training, device: torch.device) -> float:
    student = load_network(folder / WEIGHTS, config.student, len(images.part.classes))
    held_out = Batches(images.part, config.data, images.held_out_ids, device)
    batches = held_out.unaugmented(images.held_out_ids)
    return evaluate(on_device(student, device), batches, config.precision)["val_accuracy"]


def _raw_batches(images: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """The held-out images as they are stored, [B, 3, H, W] uint8, and their labels."""
    for start in range(0, len(images.held_out_ids), AT_ONCE):
        ids = images.held_out_ids[start : start + AT_ONCE]
        yield torch.from_numpy(np.array(images.part.images[ids])), torch.from_numpy(np.array(images.part.labels[ids]))

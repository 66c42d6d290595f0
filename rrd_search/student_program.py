"""A student as one program, from raw pixels to logits: as a module, and as a file that torch alone can load."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trainables.config import TrialConfig
from trainables.data.dataset import PerChannel
from trainables.weights import load_network

PROGRAM, WEIGHTS, CONFIG, METRICS = "student.pt2", "student.safetensors", "config.yaml", "metrics.json"


class StudentProgram(nn.Module):
    """Normalisation and student: images [B, 3, H, W] uint8 go in, logits [B, C] float32 come out."""

    white: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, student: nn.Module, mean: PerChannel, std: PerChannel) -> None:
        super().__init__()
        self.student = student.eval()
        for name, values in (("white", (255.0,)), ("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1))  # moves with the module

    def forward(self, images: Tensor) -> Tensor:
        normalised = images.float().div(self.white).sub(self.mean).div(self.std)
        logits: Tensor = self.student(normalised).logits
        return logits


def read_student(folder: Path) -> StudentProgram:
    """The student of an exported folder, on the CPU. ValueError for what is wrong with its files."""
    config = TrialConfig.from_yaml(folder / CONFIG)
    facts = json.loads((folder / METRICS).read_text())
    student = load_network(folder / WEIGHTS, config.student, len(facts["classes"]))
    return StudentProgram(student, facts["mean"], facts["std"])


def save_program(program: StudentProgram, image_size: int, path: Path) -> None:
    """Write the program with ``torch.export``: for images of ``image_size`` pixels a side, any B of 1 or more."""
    example = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)  # a B of 1 would be taken for a constant
    with torch.no_grad():
        exported = torch.export.export(program, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    _free_of_place(exported)
    torch.export.save(exported, path)


def load_program(path: Path) -> nn.Module:
    program: nn.Module = torch.export.load(path).module()
    return program


def _free_of_place(exported: ExportedProgram) -> None:
    """Let the program run on any device (its check of the pixels' type would hold it on the CPU), and leave the paths
    of this machine's files out of it."""
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            node.kwargs = {name: value for name, value in node.kwargs.items() if name == "dtype"}

"""ShuffleNet with three groups for small images: a 1x1 stem without stride or pooling (arXiv 1707.01083)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, conv, pooled, shuffled, through_stages
from trainables.outputs import Outputs

GROUPS = 3
STEM = 24  # channels


class ShuffleV1(Network):
    """Three stages of 4, 8 and 4 units, at half, a quarter and an eighth of the image's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding_dim = 960
        self.conv1 = conv(3, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, 240, units=4)
        self.layer2 = _stage(240, 480, units=8)
        self.layer3 = _stage(480, 960, units=4)
        self.linear = nn.Linear(self.embedding_dim, num_classes)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        stem = functional.relu(self.bn1(self.conv1(images)))
        maps, before = through_stages(stem, (self.layer1, self.layer2, self.layer3), preactivations)
        embedding = pooled(maps[-1])
        return Outputs(maps, embedding, self.linear(embedding), before)


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, beside a shortcut; returns the result before its ReLU.

    A unit that halves the map appends its average-pooled input as further channels; others add their input.
    """

    def __init__(self, channels_in: int, channels_out: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        drawn = channels_out - channels_in if halves else channels_out
        inner = drawn // 4
        # The first unit's few input channels are not grouped (the paper's section 3.2): nothing to shuffle.
        self.groups = 1 if channels_in == STEM else GROUPS
        self.conv1 = conv(channels_in, inner, 1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=2 if halves else 1, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, drawn, 1, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(drawn)

    def forward(self, image_map: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(image_map)))
        inner = functional.relu(self.bn2(self.conv2(shuffled(inner, self.groups))))
        result = self.bn3(self.conv3(inner))
        if self.halves:
            return torch.cat([result, functional.avg_pool2d(image_map, 3, stride=2, padding=1)], dim=1)
        return result + image_map


def _stage(channels_in: int, channels_out: int, units: int) -> nn.Sequential:
    first = Unit(channels_in, channels_out, halves=True)
    return nn.Sequential(first, *(Unit(channels_out, channels_out, halves=False) for _ in range(units - 1)))

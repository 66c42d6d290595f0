"""ShuffleNetV2 for small images: a 1x1 stem without stride or pooling (arXiv 1807.11164)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, conv, pooled, shuffled, through_stages
from trainables.outputs import Outputs

STEM, EMBEDDING = 24, 1024  # channels


class ShuffleV2(Network):
    """Three stages of 4, 8 and 4 units, at half, a quarter and an eighth of the image's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding_dim = EMBEDDING
        self.conv1 = conv(3, STEM, 1)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, 116, units=4)
        self.layer2 = _stage(116, 232, units=8)
        self.layer3 = _stage(232, 464, units=4)
        self.conv2 = conv(464, EMBEDDING, 1)
        self.bn2 = nn.BatchNorm2d(EMBEDDING)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        stem = functional.relu(self.bn1(self.conv1(images)))
        maps, before = through_stages(stem, (self.layer1, self.layer2, self.layer3), preactivations)
        embedding = pooled(functional.relu(self.bn2(self.conv2(maps[-1]))))
        return Outputs(maps, embedding, self.linear(embedding), before)


class Unit(nn.Module):
    """Transforms one half of the channels, keeps the other, and shuffles them; returns the result before its ReLU.

    The kept half was activated by the unit before, so that the ReLU leaves it as it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, image_map: Tensor) -> Tensor:
        kept, inner = image_map.chunk(2, dim=1)
        inner = functional.relu(self.bn1(self.conv1(inner)))
        inner = self.bn3(self.conv3(self.bn2(self.conv2(inner))))
        return shuffled(torch.cat([kept, inner], dim=1), groups=2)


class HalvingUnit(nn.Module):
    """Halves the map in two branches that both see all channels, and shuffles them; before its ReLU, too."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = conv(channels_in, channels_in, 3, stride=2, groups=channels_in)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv2 = conv(channels_in, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(channels_in, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv(half, half, 3, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, image_map: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(image_map))))
        right = functional.relu(self.bn3(self.conv3(image_map)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return shuffled(torch.cat([left, right], dim=1), groups=2)


def _stage(channels_in: int, channels_out: int, units: int) -> nn.Sequential:
    return nn.Sequential(HalvingUnit(channels_in, channels_out), *(Unit(channels_out) for _ in range(units - 1)))

"""ResNet50 with a stem for small images: 3x3, stride 1, no max-pooling (He et al., arXiv 1512.03385)."""

from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, conv, draw_convolutions, pooled, through_stages
from trainables.outputs import Outputs

EXPANSION = 4  # a block's output has this many times its inner channels


class ResNet50(Network):
    """Four stages of 3, 4, 6 and 3 bottleneck blocks, at full, half, a quarter and an eighth of the image's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding_dim = 512 * EXPANSION
        self.conv1 = conv(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(64 * EXPANSION, 128, blocks=4, stride=2)
        self.layer3 = _stage(128 * EXPANSION, 256, blocks=6, stride=2)
        self.layer4 = _stage(256 * EXPANSION, 512, blocks=3, stride=2)
        self.linear = nn.Linear(self.embedding_dim, num_classes)
        draw_convolutions(self)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        stem = functional.relu(self.bn1(self.conv1(images)))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        maps, before = through_stages(stem, stages, preactivations)
        embedding = pooled(maps[-1])
        return Outputs(maps, embedding, self.linear(embedding), before)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; returns their sum before its ReLU. The 3x3 has the stride."""

    def __init__(self, channels_in: int, inner: int, stride: int) -> None:
        super().__init__()
        channels_out = inner * EXPANSION
        self.conv1 = conv(channels_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, channels_out, 1)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))

    def forward(self, image_map: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(image_map)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return self.bn3(self.conv3(inner)) + self.shortcut(image_map)


def _stage(channels_in: int, inner: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels_in, inner, stride)
    return nn.Sequential(first, *(Bottleneck(inner * EXPANSION, inner, 1) for _ in range(blocks - 1)))

"""ResNets for small images: 6n + 2 layers in three stages (He et al., arXiv 1512.03385, section 4.2)."""

from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, conv, draw_convolutions, pooled, through_stages
from trainables.outputs import Outputs


class ResNet(Network):
    """The CIFAR ResNet of ``depth`` layers. ``widths``: the channels of the stem and of the three stages, which see the
    image at full, half and a quarter of its size. Shortcuts that change shape are 1x1 convolutions."""

    def __init__(self, num_classes: int, *, depth: int, widths: tuple[int, int, int, int] = (16, 16, 32, 64)) -> None:
        super().__init__()
        assert depth % 6 == 2, f"the depth of a CIFAR ResNet is 6n + 2, got {depth}"
        blocks = (depth - 2) // 6
        self.embedding_dim = widths[3]
        self.conv1 = conv(3, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        draw_convolutions(self)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        stem = functional.relu(self.bn1(self.conv1(images)))
        maps, before = through_stages(stem, (self.layer1, self.layer2, self.layer3), preactivations)
        embedding = pooled(maps[-1])
        return Outputs(maps, embedding, self.fc(embedding), before)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; returns their sum before its ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(channels_in, channels_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv(channels_out, channels_out, 3)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))

    def forward(self, image_map: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(image_map)))
        return self.bn2(self.conv2(inner)) + self.downsample(image_map)


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))

"""MobileNetV2 at half width for small images (arXiv 1801.04381)."""

from torch import Tensor, nn

from trainables.models.network import Network, conv, draw_classifier, draw_convolutions, pooled
from trainables.outputs import Outputs

STEM, EMBEDDING = 16, 1280  # channels
GROUPS = (  # expansion, channels, blocks, stride of the first block
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
STAGE_ENDS = (1, 2, 4, 6)  # the groups whose results are maps


class MobileNetV2(Network):
    """Inverted residual blocks in seven groups, from half the image's size to a sixteenth.

    Its blocks end without a ReLU, so that its preactivations are its maps.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding_dim = EMBEDDING
        self.conv1 = nn.Sequential(*_activated(3, STEM, 3, stride=2))
        self.blocks = nn.ModuleList()
        channels_in = STEM
        for expansion, channels, blocks, stride in GROUPS:
            first = InvertedResidual(channels_in, channels, expansion, stride)
            others = (InvertedResidual(channels, channels, expansion, 1) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(first, *others))
            channels_in = channels
        self.conv2 = nn.Sequential(*_activated(channels_in, EMBEDDING, 1))
        classifier = nn.Linear(EMBEDDING, num_classes)
        self.classifier = nn.Sequential(classifier)
        draw_convolutions(self)
        draw_classifier(classifier)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        image_map = self.conv1(images)
        maps = [image_map]
        for number, group in enumerate(self.blocks):
            image_map = group(image_map)
            if number in STAGE_ENDS:
                maps.append(image_map)
        embedding = pooled(self.conv2(image_map))
        return Outputs(tuple(maps), embedding, self.classifier(embedding), tuple(maps) if preactivations else None)


class InvertedResidual(nn.Module):
    """Widened by 1x1, filtered by depthwise 3x3, narrowed by 1x1; beside a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.has_shortcut = stride == 1 and channels_in == channels_out
        self.conv = nn.Sequential(
            *_activated(channels_in, inner, 1),
            *_activated(inner, inner, 3, stride, groups=inner),
            conv(inner, channels_out, 1),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, image_map: Tensor) -> Tensor:
        narrowed = self.conv(image_map)
        return image_map + narrowed if self.has_shortcut else narrowed


def _activated(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    return conv(channels_in, channels_out, kernel, stride, groups), nn.BatchNorm2d(channels_out), nn.ReLU()

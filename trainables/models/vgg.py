"""VGG with batch norm for small images: five blocks of 3x3 convolutions (arXiv 1409.1556)."""

from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, draw_classifier, draw_convolutions, pooled
from trainables.outputs import Outputs

WIDTHS = (64, 128, 256, 512, 512)  # channels of the five blocks
LARGE = 64  # pixels: from this size on, block 4 works on a pooled map


class VGG(Network):
    """The VGG whose five blocks have ``convolutions`` convolutions each; its depth is their sum plus 3."""

    def __init__(self, num_classes: int, *, convolutions: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        self.embedding_dim = WIDTHS[-1]
        self.block0 = _block(3, WIDTHS[0], convolutions[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], convolutions[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], convolutions[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], convolutions[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], convolutions[4])
        self.classifier = nn.Linear(self.embedding_dim, num_classes)
        draw_convolutions(self)
        draw_classifier(self.classifier)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        # The published network pools before block 4 at 64 pixels and not at 32: block 4 sees 4x4 both times. Below 64
        # it stays unpooled (16 pixels would shrink to 1x1), from 64 on it is pooled (block 4 is the widest).
        pools = (1, 2, 3, 4) if images.shape[-1] >= LARGE else (1, 2, 3)
        image_map, maps, before = images, [], []
        for number, block in enumerate((self.block0, self.block1, self.block2, self.block3, self.block4)):
            before_relu = block(functional.max_pool2d(image_map, 2) if number in pools else image_map)
            image_map = functional.relu(before_relu)
            maps.append(image_map)
            if preactivations:
                before.append(before_relu if number else image_map)
        embedding = pooled(image_map)
        return Outputs(tuple(maps), embedding, self.classifier(embedding), tuple(before) if preactivations else None)


def _block(channels_in: int, channels_out: int, convolutions: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU, without the last ReLU: the caller applies it."""
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers.append(nn.Conv2d(channels_out if number else channels_in, channels_out, 3, padding=1))
        layers.append(nn.BatchNorm2d(channels_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])

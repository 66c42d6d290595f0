"""Wide ResNets: 6n + 4 layers in three stages, normalised before each convolution (arXiv 1605.07146)."""

from torch import Tensor, nn
from torch.nn import functional

from trainables.models.network import Network, conv, draw_convolutions, pooled
from trainables.outputs import Outputs


class WideResNet(Network):
    """The wide ResNet of ``depth`` layers, ``width`` times as wide as 16, 32 and 64 channels, without dropout.

    Its maps are sums of residuals: not normalised, of both signs. As preactivation of a map counts what the batch norm
    after it makes of it: that of the next stage's first block, and after the last stage the network's own.
    """

    def __init__(self, num_classes: int, *, depth: int, width: int) -> None:
        super().__init__()
        assert depth % 6 == 4, f"the depth of a wide ResNet is 6n + 4, got {depth}"
        blocks = (depth - 4) // 6
        self.embedding_dim = 64 * width
        self.conv1 = conv(3, 16, 3)
        self.block1 = Stage(16, 16 * width, blocks, stride=1)
        self.block2 = Stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = Stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        stages = (self.block1, self.block2, self.block3)
        next_norms = (self.block2.first_norm, self.block3.first_norm, self.bn1)
        stem = self.conv1(images)
        normalised = self.block1.first_norm(stem)
        maps, before = [stem], [stem]
        for stage, next_norm in zip(stages, next_norms, strict=True):
            maps.append(stage(maps[-1], normalised))
            # Once for both uses, the preactivation and the next stage: a batch norm that is called twice in a step
            # counts the batch twice in its running statistics.
            normalised = next_norm(maps[-1])
            before.append(normalised)
        embedding = pooled(functional.relu(normalised))
        return Outputs(tuple(maps), embedding, self.fc(embedding), tuple(before) if preactivations else None)


class Stage(nn.Module):
    """Blocks of one size. Called with a map and the same map after the first block's batch norm."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = Block(channels_in, channels_out, stride)
        self.layer = nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(blocks - 1)))

    @property
    def first_norm(self) -> nn.Module:
        return self.layer[0].get_submodule("bn1")

    def forward(self, image_map: Tensor, normalised: Tensor) -> Tensor:
        for number, block in enumerate(self.layer):
            image_map = block(image_map, None if number else normalised)
        return image_map


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Where it changes shape, the shortcut starts from the activated map.

    ``normalised`` is the map after ``bn1`` where the caller needed that, too.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv(channels_in, channels_out, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv(channels_out, channels_out, 3)
        self.convShortcut = None if channels_in == channels_out else conv(channels_in, channels_out, 1, stride)

    def forward(self, image_map: Tensor, normalised: Tensor | None = None) -> Tensor:
        active = functional.relu(self.bn1(image_map) if normalised is None else normalised)
        residual = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return residual + (image_map if self.convShortcut is None else self.convShortcut(active))

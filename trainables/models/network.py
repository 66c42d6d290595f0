"""What all networks share: images in, ``Outputs`` out, and the pieces that several families are made of.

Attribute names such as ``conv1`` and ``bn1`` are those of the RepDistiller checkpoints, so that published weights load.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn import functional

from trainables.outputs import Outputs


class Network(nn.Module):
    """An image classifier for ``num_classes`` classes that shows its inside.

    Called with images [B, 3, H, W] of any size from 16 to 96 pixels, and ``preactivations=True`` where the maps before
    their last ReLU are wanted too. New weights are drawn from torch's default generator.
    """

    embedding_dim: int  # the length of Outputs.embedding
    __call__: Callable[..., Outputs]

    def forward(self, images: Tensor, preactivations: bool = False) -> Outputs:
        raise NotImplementedError

    @property
    def last_layer(self) -> nn.Linear:
        """What makes logits of the embedding: the network's only linear layer."""
        (layer,) = (module for module in self.modules() if isinstance(module, nn.Linear))
        return layer


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias (batch norm follows) that keeps the size, or divides it by ``stride``."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def through_stages(
    stem: Tensor, stages: Iterable[nn.Sequential], preactivations: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """The maps after the stem and after each stage, and if wanted the same before their last ReLU.

    Every block of a stage returns its result before the ReLU that ends it; that ReLU is applied here.
    """
    image_map, maps, before = stem, [stem], [stem]
    for stage in stages:
        for block in stage:
            before_relu = block(image_map)
            image_map = functional.relu(before_relu)
        maps.append(image_map)
        if preactivations:
            before.append(before_relu)
    return tuple(maps), tuple(before) if preactivations else None


def pooled(image_map: Tensor) -> Tensor:
    """The mean over all pixels, [B, channels], whatever the size."""
    return image_map.mean(dim=(2, 3))


def shuffled(image_map: Tensor, groups: int) -> Tensor:
    """Channels dealt out so that each group's neighbours come from all groups (ShuffleNet, arXiv 1707.01083)."""
    return image_map.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def draw_convolutions(network: nn.Module) -> None:
    """Redraw every convolution from a normal distribution with variance 2 / (kernel area x output channels), after
    He et al., arXiv 1502.01852; biases start at 0. Batch norm keeps PyTorch's own start, 1 and 0."""
    for module in network.modules():
        # On the meta device nothing is there to be drawn, and PyTorch would load its compiler (seconds) for it.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def draw_classifier(classifier: nn.Linear) -> None:
    """Redraw the classifier with standard deviation 0.01, as in VGG and MobileNet; its bias starts at 0."""
    if not classifier.weight.is_meta:
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)

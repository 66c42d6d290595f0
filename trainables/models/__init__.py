"""Networks for small images, by name: ``MODELS[name](num_classes=...)``, called with images [B, 3, H, W], says Outputs.

Their state dicts are those of the published RepDistiller checkpoints. To add one: write a ``Network``, and one line
below.
"""

import functools
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from trainables import checks
from trainables.models.mobilenet_v2 import MobileNetV2
from trainables.models.network import Network
from trainables.models.resnet import ResNet
from trainables.models.resnet50 import ResNet50
from trainables.models.shuffle_v1 import ShuffleV1
from trainables.models.shuffle_v2 import ShuffleV2
from trainables.models.vgg import VGG
from trainables.models.wide_resnet import WideResNet
from trainables.outputs import Outputs

MODELS: dict[str, Callable[..., Network]] = {
    "resnet8": partial(ResNet, depth=8),
    "resnet14": partial(ResNet, depth=14),
    "resnet20": partial(ResNet, depth=20),
    "resnet32": partial(ResNet, depth=32),
    "resnet44": partial(ResNet, depth=44),
    "resnet56": partial(ResNet, depth=56),
    "resnet110": partial(ResNet, depth=110),
    "resnet8x4": partial(ResNet, depth=8, widths=(32, 64, 128, 256)),
    "resnet32x4": partial(ResNet, depth=32, widths=(32, 64, 128, 256)),
    "ResNet50": ResNet50,
    "wrn_16_1": partial(WideResNet, depth=16, width=1),
    "wrn_16_2": partial(WideResNet, depth=16, width=2),
    "wrn_40_1": partial(WideResNet, depth=40, width=1),
    "wrn_40_2": partial(WideResNet, depth=40, width=2),
    "vgg8": partial(VGG, convolutions=(1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, convolutions=(2, 2, 4, 4, 4)),
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
}


@functools.cache
def embedding_dim(name: str) -> int:
    """The length of the vector that the classifier of a network reads. ValueError for an unknown name."""
    return _undrawn(name, num_classes=1).embedding_dim


def shapes(name: str, image_size: int, num_classes: int) -> Outputs:
    """What a network says about one image, preactivations included, as meta tensors: they have a shape and no values.

    Losses are built from it. No random number is drawn. ValueError for an unknown name.
    """
    # One real image through weights of 0: a pass on the meta device would first load PyTorch's compiler (seconds).
    network = _undrawn(name, num_classes)
    zeros = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in network.state_dict().items()}
    network.load_state_dict(zeros, assign=True)
    network.eval()  # in training mode, batch norm refuses a last map of a single pixel
    with torch.no_grad():
        said = network(torch.zeros(1, 3, image_size, image_size), preactivations=True)
    embedding, logits = said.embedding.to("meta"), said.logits.to("meta")
    return Outputs(_bare(said.maps), embedding, logits, _bare(said.preactivations or ()))


def _undrawn(name: str, num_classes: int) -> Network:
    checks.one_of("the model", name, MODELS)
    with torch.device("meta"):
        return MODELS[name](num_classes=num_classes)


def _bare(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.to("meta") for tensor in tensors)

"""What a network says about a batch of images, and the batch itself."""

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """What a network says about B images.

    ``maps`` are the feature maps after the stem and after each stage, each [B, channels, H, W], from large to small.
    ``preactivations`` are the same maps before their last ReLU, given only when the network was asked for them.
    ``embedding`` is the pooled vector that the classifier reads, ``logits`` what it makes of it.
    """

    maps: tuple[Tensor, ...]  # each [B, channels, H, W]
    embedding: Tensor  # [B, D]
    logits: Tensor  # [B, C]
    preactivations: tuple[Tensor, ...] | None = None


class Batch(NamedTuple):
    """B training images on the device, normalised, with their labels and their ids in the training set."""

    images: Tensor  # [B, 3, H, W] float
    labels: Tensor  # [B] int64
    indices: Tensor  # [B] int64, original image ids: they do not depend on the split


def unhalved(values: Tensor) -> Tensor:
    """In float32, where they are in a half precision: too coarse for softmax and log. float64 stays."""
    return values.float() if values.dtype.itemsize < 4 else values

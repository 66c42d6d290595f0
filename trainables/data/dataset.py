"""A Dataset: what is known about a set of images before they are read, and the reader of its files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from trainables import checks

Part = Literal["train", "test"]
PerChannel = tuple[float, float, float]  # red, green, blue, where pixels are 0 to 1

SMALLEST, LARGEST = 16, 96  # pixels a side


class Decoded(NamedTuple):
    """The images of one part, as they are kept."""

    images: np.ndarray  # [N, 3, H, W] uint8
    labels: np.ndarray  # [N] int64
    classes: tuple[str, ...]


def known_by_name(root: Path) -> list[str]:
    """What tells a published dataset from others: nothing but its name, so its decoded images outlive its files."""
    return []


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A set of images in two parts, with its own defaults for ``image_size`` and ``flip``.

    ``num_classes``, ``mean`` and ``std`` are None where only the files tell. ``sizes`` are the only valid sizes, where
    not every one is. ``fingerprint(root)`` says, in strings, which files would be read.
    """

    name: str
    reader: Callable[[Path, Part, int], Decoded]
    num_classes: int | None
    mean: PerChannel | None
    std: PerChannel | None
    image_size: int = 32  # pixels a side
    flip: bool = True
    sizes: tuple[int, ...] = ()
    fingerprint: Callable[[Path], list[str]] = known_by_name

    def check_size(self, image_size: int) -> None:
        """Raise ``ValueError`` where these images cannot be had at ``image_size`` pixels a side."""
        if self.sizes:
            rule = " or ".join(str(size) for size in self.sizes) + f" for {self.name}"
            checks.require(image_size in self.sizes, "data.image_size", rule, image_size)
        rule = f"from {SMALLEST} to {LARGEST} pixels"
        checks.require(SMALLEST <= image_size <= LARGEST, "data.image_size", rule, image_size)

    def read(self, root: Path, part: Part, image_size: int) -> Decoded:
        """Decode one part from its files below ``root``. ``ValueError`` names what is missing or broken."""
        decoded = self.reader(root, part, image_size)
        count, classes = len(decoded.images), len(decoded.classes)
        if not count:
            raise ValueError(f"{self.name}: the {part} part has no images")
        if self.num_classes is not None and classes != self.num_classes:
            raise ValueError(f"{self.name}: its files name {classes} classes, expected {self.num_classes}")
        if decoded.labels.min() < 0 or decoded.labels.max() >= classes:
            raise ValueError(f"{self.name}: the {part} part has labels outside 0 to {classes - 1}")
        assert decoded.images.shape == (count, 3, image_size, image_size), decoded.images.shape
        assert decoded.images.dtype == np.uint8, decoded.images.dtype
        assert decoded.labels.dtype == np.int64, decoded.labels.dtype
        assert decoded.labels.shape == (count,), f"{len(decoded.labels)} labels for {count} images"
        return decoded

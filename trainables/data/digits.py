"""Digits: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, enlarged; nothing is downloaded."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.splits import split

_TEST_IMAGES = 597  # of 1,797: 1,200 are left for training
_WHITE = 16  # the largest value in scikit-learn's images


def read_digits(root: Path, part: Part, image_size: int) -> Decoded:
    """The part's images, grey in three equal channels. ``root`` is not read."""
    table = _bundled()
    labels = table[:, -1].astype(np.int64)
    train_ids, test_ids = split(labels, _TEST_IMAGES / len(labels), seed=0)
    ids = train_ids if part == "train" else test_ids
    grey = np.stack([_enlarged(pixels.reshape(8, 8), image_size) for pixels in table[ids, :-1]])  # [N, H, W]
    images = np.repeat(grey[:, None], 3, axis=1)
    return Decoded(images, labels[ids], tuple(str(digit) for digit in range(10)))


def _bundled() -> np.ndarray:
    """Float [1797, 65]: 64 pixels, and what they show. scikit-learn's file, because to import it takes 2 seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError("data.name: digits are scikit-learn's, which is not installed: pip install scikit-learn")
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",")


def _enlarged(image: np.ndarray, image_size: int) -> np.ndarray:
    picture = Image.fromarray((image * 255 / _WHITE).round().astype(np.uint8))
    return np.asarray(picture.resize((image_size, image_size), Image.Resampling.BILINEAR))


DIGITS = Dataset(
    name="digits",
    reader=read_digits,
    num_classes=10,
    mean=(0.3053, 0.3053, 0.3053),  # of the training images at 16 pixels
    std=(0.3188, 0.3188, 0.3188),
    image_size=16,
    flip=False,  # a mirrored digit is no digit
    sizes=(16, 32),
)

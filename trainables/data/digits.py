"""Digits: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, enlarged; nothing is downloaded."""

from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.splits import split

_TEST_IMAGES = 597  # of 1,797: 1,200 are left for training
_WHITE = 16  # the largest value in scikit-learn's images


def read_digits(root: Path, part: Part, image_size: int) -> Decoded:
    """The part's images, grey in three equal channels. ``root`` is not read."""
    from sklearn.datasets import load_digits  # only this reader needs scikit-learn

    bundled = load_digits()
    labels = bundled.target.astype(np.int64)
    train_ids, test_ids = split(labels, _TEST_IMAGES / len(labels), seed=0)
    ids = train_ids if part == "train" else test_ids
    grey = np.stack([_enlarged(image, image_size) for image in bundled.images[ids]])  # [N, H, W]
    images = np.repeat(grey[:, None], 3, axis=1)
    return Decoded(images, labels[ids], tuple(str(digit) for digit in range(10)))


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

"""STL-10: 5,000 labelled training and 8,000 test images of 96 x 96 pixels, in the published binary files."""

from pathlib import Path

import numpy as np

from trainables.data.archive import Archive
from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.pictures import resized

_SIDE = 96
_PIXELS = 3 * _SIDE * _SIDE

_ARCHIVE = Archive(
    dataset="stl10",
    folder="stl10_binary",
    files=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt"),
    address="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    torchvision_class="STL10",
)


def read_stl10(root: Path, part: Part, image_size: int) -> Decoded:
    """The part's images; ``ValueError`` names a file that is missing or too short."""
    folder = _ARCHIVE.found(root)
    pixels = np.fromfile(folder / f"{part}_X.bin", np.uint8)
    if pixels.size % _PIXELS:
        raise ValueError(f"{folder / f'{part}_X.bin'} is damaged: {pixels.size} bytes are no multiple of {_PIXELS}")
    images = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 1, 3, 2)  # the files hold column after column
    labels = np.fromfile(folder / f"{part}_y.bin", np.uint8).astype(np.int64) - 1  # the files count from 1
    if len(labels) != len(images):
        raise ValueError(f"{folder / f'{part}_y.bin'} is damaged: {len(labels)} labels for {len(images)} images")
    classes = tuple((folder / "class_names.txt").read_text().split())
    return Decoded(resized(images, image_size), labels, classes)


STL10 = Dataset(
    name="stl10",
    reader=read_stl10,
    num_classes=10,
    mean=(0.4467, 0.4398, 0.4066),
    std=(0.2603, 0.2566, 0.2712),
)

"""Tiny ImageNet: 200 classes of 64 x 64 JPEG files as published; the validation images, whose labels are public, are
the test part. A class is called by its WordNet id, and labels follow the sorted ids."""

from pathlib import Path

import numpy as np

from trainables.data.archive import Archive
from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.pictures import decoded_files

_ARCHIVE = Archive(
    dataset="tiny_imagenet",
    folder="tiny-imagenet-200",
    files=("wnids.txt", "train", "val/images", "val/val_annotations.txt"),
    address="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)


def read_tiny_imagenet(root: Path, part: Part, image_size: int) -> Decoded:
    """The part's images; ``ValueError`` names a file that is missing or broken."""
    folder = _ARCHIVE.found(root)
    classes = tuple(sorted((folder / "wnids.txt").read_text().split()))
    label_of = {wordnet_id: label for label, wordnet_id in enumerate(classes)}
    files = _training_files(folder, label_of) if part == "train" else _validation_files(folder, label_of)
    images = decoded_files([file for file, _ in files], image_size)
    return Decoded(images, np.array([label for _, label in files], np.int64), classes)


def _training_files(folder: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    files = []
    for wordnet_id, label in label_of.items():
        of_class = sorted((folder / "train" / wordnet_id / "images").glob("*.JPEG"))
        if not of_class:
            raise ValueError(f"tiny_imagenet: {folder / 'train' / wordnet_id / 'images'} has no *.JPEG files")
        files += [(file, label) for file in of_class]
    return files


def _validation_files(folder: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    annotations = folder / "val" / "val_annotations.txt"
    files = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        fields = line.split("\t")  # file name, WordNet id, four numbers of a box
        if len(fields) < 2 or fields[1] not in label_of:
            raise ValueError(f"{annotations} is damaged: line {number} names no class of wnids.txt")
        files.append((folder / "val" / "images" / fields[0], label_of[fields[1]]))
    return files


TINY_IMAGENET = Dataset(
    name="tiny_imagenet",
    reader=read_tiny_imagenet,
    num_classes=200,
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
)

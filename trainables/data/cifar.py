"""CIFAR-10 and CIFAR-100: the published "python version", pickles of 32 x 32 images, read without running code."""

import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.archive import Archive
from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.pictures import resized

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """Which files of the archive hold which part, and under which keys."""

    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_key: bytes
    names_key: bytes


def read_cifar(layout: _Layout, root: Path, part: Part, image_size: int) -> Decoded:
    """The part's images; ``ValueError`` names a file that is missing, damaged or holds something else."""
    folder = layout.archive.found(root)
    batches = [_batch(folder / name, layout.label_key) for name in (layout.train if part == "train" else layout.test)]
    classes = _entry(folder / layout.names, layout.names_key, list)
    images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    return Decoded(resized(images, image_size), labels, tuple(name.decode() for name in classes))


def _batch(path: Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    images = _entry(path, b"data", np.ndarray)
    labels = np.asarray(_entry(path, label_key, list))
    if images.dtype != np.uint8 or images.shape != (len(labels), _PIXELS) or labels.dtype.kind != "i":
        raise ValueError(f"{path} does not hold rows of {_PIXELS} pixels with a whole number for each")
    return images, labels.astype(np.int64)


def _entry(path: Path, key: bytes, kind: type) -> Any:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
        # Written by Python 2 the keys are bytes, by Python 3 text.
        entry = content[key] if key in content else content[key.decode()]
        if kind is list:
            entry = [name.encode() if isinstance(name, str) else name for name in entry]
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(f"{path} is damaged or no CIFAR file: {reason}") from error
    if not isinstance(entry, kind):
        raise ValueError(f"{path} is not a CIFAR file: {key.decode()} is a {type(entry).__name__}")
    return entry


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds arrays and built-in containers; refuses everything else, since a pickle can call any function."""

    def find_class(self, module: str, name: str) -> Any:
        from _codecs import encode  # how Python 3 writes bytes for Python 2

        numpy_core = ("numpy.core", "numpy._core")  # before and since numpy 2
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): encode,
        }
        for core in numpy_core:  # the functions by which numpy rebuilds an array, in the old and new protocols
            allowed[f"{core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
            allowed[f"{core}.numeric", "_frombuffer"] = np.empty(1).__reduce_ex__(5)[0]
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no need of")
        return allowed[module, name]


def _layout(archive: Archive, names_key: bytes, label_key: bytes) -> _Layout:
    train = tuple(name for name in archive.files if name.startswith(("data_batch", "train")))
    test = tuple(name for name in archive.files if name.startswith("test"))
    return _Layout(archive, train, test, archive.files[-1], label_key, names_key)


_CIFAR10_ARCHIVE = Archive(
    dataset="cifar10",
    folder="cifar-10-batches-py",
    files=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    torchvision_class="CIFAR10",
)
_CIFAR100_ARCHIVE = Archive(
    dataset="cifar100",
    folder="cifar-100-python",
    files=("train", "test", "meta"),
    address="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    torchvision_class="CIFAR100",
)

CIFAR10 = Dataset(
    name="cifar10",
    reader=partial(read_cifar, _layout(_CIFAR10_ARCHIVE, b"label_names", b"labels")),
    num_classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Dataset(
    name="cifar100",
    reader=partial(read_cifar, _layout(_CIFAR100_ARCHIVE, b"fine_label_names", b"fine_labels")),
    num_classes=100,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)

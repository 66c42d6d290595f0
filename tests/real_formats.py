"""Tiny datasets in the formats in which the real ones are published, for tests that read or search them.

Images have a colour of their class with noise over it, so that a network can learn them in an epoch or two. Each
function writes below ``root`` and returns what it wrote: ``{part: (images [N, 3, h, h] uint8, labels [N] int64)}``.
"""

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

Written = dict[str, tuple[np.ndarray, np.ndarray]]


def coloured_images(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """[N, 3, size, size] uint8: for each label a colour and a brighter corner, and noise."""
    colours = np.random.RandomState(12345).randint(40, 200, (max(labels, default=0) + 1, 3))
    noise = np.random.RandomState(seed).randint(0, 40, (len(labels), 3, size, size))
    noise[:, :, : size // 2, : size // 2] += 16  # a mirrored or turned image differs
    return (colours[labels][:, :, None, None] + noise).astype(np.uint8)


def write_cifar10(root: Path, train: int = 100, test: int = 20) -> Written:
    """cifar-10-batches-py: five training batches, a test batch and the names, as Python 2 wrote them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    assert train % 5 == 0, "five batches of one size"
    written = _made(10, train, test, 32)
    for number, positions in enumerate(np.arange(train).reshape(5, -1), start=1):
        label = f"training batch {number} of 5"
        _write_cifar_batch(folder / f"data_batch_{number}", written["train"], positions, {"labels": label})
    _write_cifar_batch(folder / "test_batch", written["test"], np.arange(test), {"labels": "testing batch 1 of 1"})
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    _write_python2(folder / "batches.meta", {"num_cases_per_batch": train // 5, "label_names": names, "num_vis": 3072})
    return written


def write_cifar100(root: Path, train: int = 200, test: int = 100) -> Written:
    """cifar-100-python: one training and one test file and the names, as Python 2 wrote them."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    written = _made(100, train, test, 32)
    for part in ("train", "test"):
        label = {"train": "training batch 1 of 1", "test": "testing batch 1 of 1"}[part]
        positions = np.arange(len(written[part][1]))
        _write_cifar_batch(folder / part, written[part], positions, {"fine_labels": label})
    fine = [f"fine_{number:02d}" for number in range(100)]
    _write_python2(
        folder / "meta", {"fine_label_names": fine, "coarse_label_names": [f"coarse_{i:02d}" for i in range(20)]}
    )
    return written


def write_stl10(root: Path, train: int = 60, test: int = 20) -> Written:
    """stl10_binary: raw bytes, column after column, and labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    written = _made(10, train, test, 96)
    for part, (images, labels) in written.items():
        images.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in names))
    return written


def write_tiny_imagenet(root: Path, train: int = 400, test: int = 200) -> Written:
    """tiny-imagenet-200: JPEG files of 64 pixels, by class for training, with annotations for validation; all 200
    classes. What is returned is what the JPEG files hold; every tenth file is grey, as some of the real ones are."""
    folder = root / "tiny-imagenet-200"
    wordnet_ids = [f"n{number:08d}" for number in range(1_400_000, 1_400_200)]
    made = _made(200, train, test, 64)
    written: Written = {}
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(reversed(wordnet_ids)) + "\n")  # the real ones are unsorted as well
    (folder / "words.txt").write_text("".join(f"{name}\tthing {name}\n" for name in wordnet_ids))
    by_class = np.argsort(made["train"][1], kind="stable")
    images, labels = made["train"][0][by_class], made["train"][1][by_class]
    decoded = []
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = wordnet_ids[label]
        (folder / "train" / name / "images").mkdir(parents=True, exist_ok=True)
        file = folder / "train" / name / "images" / f"{name}_{position:04d}.JPEG"
        decoded.append(_write_jpeg(file, image, grey=position % 10 == 0))
    written["train"] = np.stack(decoded), labels
    decoded, annotations = [], ""
    for position, (image, label) in enumerate(zip(*made["test"], strict=True)):
        decoded.append(_write_jpeg(folder / "val" / "images" / f"val_{position}.JPEG", image, grey=position % 10 == 0))
        annotations += f"val_{position}.JPEG\t{wordnet_ids[label]}\t0\t0\t63\t63\n"
    (folder / "val" / "val_annotations.txt").write_text(annotations)
    written["test"] = np.stack(decoded), made["test"][1]
    return written


def write_folder(folder: Path, per_class: int = 10, classes: tuple[str, ...] = ("cat", "dog", "owl")) -> Written:
    """A folder of PNG files per class, in one part; what is returned under "train" is all of it, class by class."""
    labels = np.repeat(np.arange(len(classes)), per_class)
    images = coloured_images(labels, 40, seed=3)
    for position, (image, label) in enumerate(zip(images, labels, strict=True)):
        of_class = folder / classes[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(of_class / f"{position:04d}.png")
    return {"train": (images, labels)}


def _made(classes: int, train: int, test: int, size: int) -> Written:
    """Every class equally often, shuffled."""
    made: Written = {}
    for seed, (part, count) in enumerate({"train": train, "test": test}.items()):
        labels = np.random.RandomState(seed).permutation(np.arange(count) % classes)
        made[part] = coloured_images(labels, size, seed), labels
    return made


def _write_jpeg(file: Path, image: np.ndarray, grey: bool) -> np.ndarray:
    picture = Image.fromarray(image.transpose(1, 2, 0))
    (picture.convert("L") if grey else picture).save(file, "JPEG", quality=90)
    with Image.open(file) as saved:
        return np.asarray(saved.convert("RGB")).transpose(2, 0, 1)


def _write_cifar_batch(
    file: Path, part: tuple[np.ndarray, np.ndarray], positions: np.ndarray, batch_label: dict[str, str]
) -> None:
    images, labels = part
    ((label_key, label),) = batch_label.items()
    content: dict[str, Any] = {"batch_label": label, label_key: labels[positions].tolist()}
    if label_key == "fine_labels":
        content["coarse_labels"] = (labels[positions] // 5).tolist()
    content["data"] = images[positions].reshape(len(positions), -1)
    content["filenames"] = [f"image_{position:06d}.png" for position in positions]
    _write_python2(file, content)


def _write_python2(file: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    file.write_bytes(buffer.getvalue())


class _Python2Pickler(pickle._Pickler):  # the one in Python, whose parts can be replaced
    """Writes what Python 2 and the numpy of its day wrote: byte strings, and numpy's functions under their old name."""

    write: Any
    memoize: Any
    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def _save_byte_string(self, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        short = len(data) < 256
        self.write((b"U" + struct.pack("<B", len(data)) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    def _save_function(self, function: Any) -> None:
        assert function.__name__ == "_reconstruct", function
        self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
        self.memoize(function)

    dispatch[str] = dispatch[bytes] = _save_byte_string
    dispatch[type(np.empty(0).__reduce__()[0])] = _save_function

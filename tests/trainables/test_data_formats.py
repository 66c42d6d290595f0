"""The readers, on tiny datasets in the published formats; what they say when files are missing or damaged."""

import os
import pickle
import urllib.error
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import real_formats
import torchvision
from PIL import Image

from trainables.data import DATASETS
from trainables.data.dataset import Part
from trainables.data.decoded import mean_and_std
from trainables.data.digits import _bundled

WRITERS: dict[str, Callable[[Path], real_formats.Written]] = {
    "cifar10": real_formats.write_cifar10,
    "cifar100": real_formats.write_cifar100,
    "stl10": real_formats.write_stl10,
    "tiny_imagenet": real_formats.write_tiny_imagenet,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, real_formats.Written]]:
    roots = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    return {name: (root, WRITERS[name](root)) for name, root in roots.items()}


def pillow_resized(images: np.ndarray, size: int) -> np.ndarray:
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    resized = [torchvision.transforms.functional.resize(picture, [size, size]) for picture in pictures]
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in resized])


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", list(WRITERS))
def test_a_published_dataset_is_read(published: dict, name: str, part: Part) -> None:
    root, written = published[name]
    images, labels = written[part]
    for size in (32, images.shape[-1], 48):
        decoded = DATASETS[name].read(root, part, size)
        assert np.array_equal(decoded.labels, labels)
        assert np.array_equal(decoded.images, pillow_resized(images, size))
    assert len(decoded.classes) == len(set(decoded.classes)) == DATASETS[name].num_classes


def test_class_names(published: dict) -> None:
    names = {name: DATASETS[name].read(published[name][0], "test", 32).classes for name in WRITERS}
    assert names["cifar10"][:3] == ("airplane", "automobile", "bird")
    assert names["cifar100"][99] == "fine_99"
    assert names["stl10"][9] == "truck"
    assert names["tiny_imagenet"][:2] == ("n01400000", "n01400001")


@pytest.mark.parametrize("size", [16, 32])
def test_digits(size: int) -> None:
    train, test = (DATASETS["digits"].read(Path("nowhere"), part, size) for part in ("train", "test"))
    assert train.images.shape == (1200, 3, size, size)
    assert test.images.shape == (597, 3, size, size)
    assert train.images.max() >= 250
    assert np.array_equal(train.images[:, 0], train.images[:, 2])
    assert np.abs(np.bincount(train.labels) - 120).max() <= 4
    both = {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    assert len(both) <= 2  # scikit-learn's digits hold a few twins
    if size == 16:
        measured_mean, measured_std = mean_and_std(train)
        assert np.allclose(measured_mean, np.array(DATASETS["digits"].mean), atol=1e-4)
        assert np.allclose(measured_std, np.array(DATASETS["digits"].std), atol=1e-4)


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    assert np.array_equal(_bundled(), np.column_stack([pixels, labels]))


class Malicious:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("/nowhere/at/all",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (pickle.dumps({b"data": Malicious(), b"labels": [0]}), r"asks for posix\.mkdir"),
        (pickle.dumps({b"data": OrderedDict()}), r"asks for collections\.OrderedDict"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), "rows of 3072 pixels"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.float32), b"labels": [0]}), "rows of 3072 pixels"),
        (pickle.dumps({b"data": [[0]], b"labels": [0]}), "data is a list"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}), "KeyError 'labels'"),
        (pickle.dumps([1, 2]), "is damaged or no CIFAR file"),
        (b"\x80\x02}q\x00(U\x0bbatch", "is damaged or no CIFAR file"),
        (b"", "is damaged or no CIFAR file"),
        (b"<html>404</html>", "is damaged or no CIFAR file"),
    ],
)
def test_a_cifar_file_that_holds_something_else_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    real_formats.write_cifar10(tmp_path)
    broken = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    broken.write_bytes(content)
    with pytest.raises(ValueError, match=what) as raised:
        DATASETS["cifar10"].read(tmp_path, "train", 32)
    assert str(raised.value).startswith(f"{broken} ")
    assert "\n" not in str(raised.value)


def test_every_truncation_of_a_cifar_file_is_named(tmp_path: Path) -> None:
    real_formats.write_cifar100(tmp_path, train=100, test=100)
    broken = tmp_path / "cifar-100-python" / "train"
    whole = broken.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        broken.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cifar-100-python/train is damaged"):
            DATASETS["cifar100"].read(tmp_path, "train", 32)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_files_rewritten_by_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    images, labels = real_formats.write_cifar10(tmp_path)["test"]
    content = {"data": images.reshape(20, 3072), "labels": labels.tolist(), "extra": b"bytes"}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    decoded = DATASETS["cifar10"].read(tmp_path, "test", 32)
    assert np.array_equal(decoded.images, images)
    assert np.array_equal(decoded.labels, labels)


@pytest.mark.parametrize(
    ("file", "kept_bytes", "what"),
    [
        ("train_X.bin", 100_000, "100000 bytes are no multiple of 27648"),
        ("train_X.bin", 27648 * 3, "60 labels for 3 images"),
        ("train_y.bin", 59, "59 labels for 60 images"),
        ("train_X.bin", 0, "60 labels for 0 images"),
        ("class_names.txt", 8, "its files name 1 classes, expected 10"),
    ],
)
def test_a_truncated_stl10_file_is_named(tmp_path: Path, file: str, kept_bytes: int, what: str) -> None:
    real_formats.write_stl10(tmp_path)
    path = tmp_path / "stl10_binary" / file
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(ValueError, match=what):
        DATASETS["stl10"].read(tmp_path, "train", 32)


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    real_formats.write_stl10(tmp_path)
    np.zeros(60, np.uint8).tofile(tmp_path / "stl10_binary" / "train_y.bin")  # the files count from 1
    with pytest.raises(ValueError, match=r"^stl10: the train part has labels outside 0 to 9$"):
        DATASETS["stl10"].read(tmp_path, "train", 32)


def test_damaged_tiny_imagenet_files_are_named(tmp_path: Path) -> None:
    real_formats.write_tiny_imagenet(tmp_path, train=200, test=10)
    folder, read = tmp_path / "tiny-imagenet-200", DATASETS["tiny_imagenet"].read
    image = folder / "val" / "images" / "val_4.JPEG"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"val_4\.JPEG cannot be decoded as an image: "):
        read(tmp_path, "test", 32)
    image.unlink()
    with pytest.raises(ValueError, match=r"val_4\.JPEG cannot be decoded as an image: .*No such file"):
        read(tmp_path, "test", 32)
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01400000\t0\nval_1.JPEG\tn9\t0\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt is damaged: line 2 names no class"):
        read(tmp_path, "test", 32)
    for file in (folder / "train" / "n01400007" / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"n01400007/images has no \*\.JPEG files"):
        read(tmp_path, "train", 32)


@pytest.mark.parametrize(("name", "missing"), [("cifar10", "data_batch_1"), ("cifar100", "meta"), ("stl10", "test_X")])
def test_a_failed_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str
) -> None:
    def offline(*arguments: object, **named: object) -> None:
        raise urllib.error.URLError("no\nroute")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", offline)
    with pytest.raises(ValueError, match=rf"^{name}: {tmp_path}/.*{missing}.*its download failed .*route") as raised:
        DATASETS[name].read(tmp_path, "train", 32)
    assert "\n" not in str(raised.value)
    assert "http" in str(raised.value)


def test_a_missing_dataset_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, root: str, filename: str, md5: str) -> None:
        asked.append((url, md5))
        real_formats.write_cifar10(Path(root))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", download)
    for part in ("train", "test"):
        DATASETS["cifar10"].read(tmp_path / "data", part, 32)
    assert asked == [(torchvision.datasets.CIFAR10.url, torchvision.datasets.CIFAR10.tgz_md5)]


def test_tiny_imagenet_says_where_it_can_be_had(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^tiny_imagenet: .* lacks wnids\.txt, .*: unpack http.*zip in .* by hand$"):
        DATASETS["tiny_imagenet"].read(tmp_path, "train", 32)

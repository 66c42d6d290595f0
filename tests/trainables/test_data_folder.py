"""folder:PATH: one or two parts, any format and size, and what is said about folders that do not fit."""

import logging
from pathlib import Path

import numpy as np
import pytest
import real_formats
from PIL import Image

from trainables.data import dataset_of
from trainables.data.config import DataConfig
from trainables.data.decoded import open_part


def save(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (102, 102, 102)).save(file)  # grey that a GIF can hold


def test_one_part_is_split_in_two_by_class(tmp_path: Path) -> None:
    images, labels = real_formats.write_folder(tmp_path / "pets")["train"]
    dataset = dataset_of(f"folder:{tmp_path / 'pets'}")
    train, test = (dataset.read(tmp_path, part, 40) for part in ("train", "test"))
    assert train.classes == ("cat", "dog", "owl")
    assert np.bincount(train.labels).tolist() == [8, 8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2, 2]
    read = {image.tobytes(): label for part in (train, test) for image, label in zip(*part[:2], strict=True)}
    assert read == {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    again = dataset_of("folder:pets").read(tmp_path, "test", 40)  # a relative path is taken from the data root
    assert np.array_equal(again.images, test.images)


@pytest.mark.parametrize("second", ["test", "val"])
def test_two_parts_are_taken_as_they_are(tmp_path: Path, second: str) -> None:
    real_formats.write_folder(tmp_path / "train", per_class=4)
    real_formats.write_folder(tmp_path / second, per_class=3)
    dataset = dataset_of(f"folder:{tmp_path}")
    assert np.bincount(dataset.read(tmp_path, "train", 32).labels).tolist() == [4, 4, 4]
    assert np.bincount(dataset.read(tmp_path, "test", 32).labels).tolist() == [3, 3, 3]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    real_formats.write_folder(tmp_path, classes=("plane", "test", "train"))
    assert dataset_of(f"folder:{tmp_path}").read(tmp_path, "train", 32).classes == ("plane", "test", "train")


def test_formats_sizes_and_modes(tmp_path: Path) -> None:
    for number, (name, mode) in enumerate(
        [("a.png", "RGBA"), ("b.JPG", "L"), ("c.gif", "P"), ("d.bmp", "RGB"), ("e.webp", "RGB"), ("f.tiff", "CMYK")]
    ):
        file = tmp_path / "one" / name
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + 30 * number, 64), (102, 102, 102)).convert(mode).save(file)
    Image.fromarray(np.full((30, 50), 102 * 256, np.uint16)).save(tmp_path / "one" / "g.png")
    save(tmp_path / "two" / "deeper" / "a.png")
    save(tmp_path / "two" / "b.png")
    dataset = dataset_of(f"folder:{tmp_path}")
    parts = [dataset.read(tmp_path, part, 32) for part in ("train", "test")]
    images = np.concatenate([part.images for part in parts])
    assert len(images) == 9
    assert np.abs(images.astype(int) - 102).max() <= 3


def test_the_centre_square_is_taken(tmp_path: Path) -> None:
    picture = Image.new("RGB", (90, 30), (255, 0, 0))
    picture.paste((0, 255, 0), (30, 0, 60, 30))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "wide.png")
    images = dataset_of(f"folder:{tmp_path}").read(tmp_path, "train", 16).images
    assert np.all(images[:, 0, :, 1:-1] == 0)  # the outermost pixels see those beside the square, as in any resizing
    assert np.all(images[:, 1, :, 1:-1] == 255)


def test_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    images, _ = real_formats.write_folder(tmp_path / "source" / "train")["train"]
    real_formats.write_folder(tmp_path / "source" / "test", per_class=2)
    config = DataConfig(name=f"folder:{tmp_path / 'source'}", image_size=40)
    test = open_part(config, "test", tmp_path, tmp_path)  # decodes the training part as well, for its statistics
    train = open_part(config, "train", tmp_path, tmp_path)
    assert (test.mean, test.std) == (train.mean, train.std)
    assert np.allclose(train.mean, (images / 255).mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(train.std, (images / 255).std((0, 2, 3)), atol=1e-5)


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    real_formats.write_folder(tmp_path / "source")
    config = DataConfig(name=f"folder:{tmp_path / 'source'}")
    before = open_part(config, "train", tmp_path, tmp_path)
    assert open_part(config, "train", tmp_path, tmp_path).sha256 == before.sha256
    save(tmp_path / "source" / "cat" / "9999.png")
    assert len(open_part(config, "train", tmp_path, tmp_path)) == len(before) + 1


def test_images_of_one_colour_can_be_normalised(tmp_path: Path) -> None:
    for file in ("one/a.png", "one/b.png", "two/a.png", "two/b.png"):
        save(tmp_path / "source" / file)
    part = open_part(DataConfig(name=f"folder:{tmp_path / 'source'}"), "train", tmp_path, tmp_path)
    assert min(part.std) > 0.003


def test_what_is_skipped_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    real_formats.write_folder(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    save(tmp_path / "stray.png")
    with caplog.at_level(logging.WARNING):
        assert len(dataset_of(f"folder:{tmp_path}").read(tmp_path, "train", 32).images) == 24
    assert "2 files are skipped" in caplog.text


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ([], "must hold one folder per class, at least 2, and has 0$"),
        (["a.png", "b.png"], "must hold one folder per class, at least 2, and has 0$"),
        (["one/a.png"], "must hold one folder per class, at least 2, and has 1$"),
        (["one/a.png", "two/a.txt"], r"two has no images \(\.bmp"),
        (["train/one/a.png", "train/two/a.png"], "has a train folder of classes, but neither test nor val beside it$"),
        (
            ["train/one/a.png", "train/two/a.png", "test/one/a.png", "test/six/a.png"],
            "must have the same classes; not in both: six$",
        ),
        (["one/a.png", "two/a.png"], "the test part has no images$"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(tmp_path: Path, files: list[str], what: str) -> None:
    for file in files:
        path = tmp_path / file
        if path.suffix == ".png":
            save(path)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
    with pytest.raises(ValueError, match=what) as raised:
        dataset_of(f"folder:{tmp_path}").read(tmp_path, "test", 32)
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no folder /no/such/place \(a relative PATH is taken from"):
        dataset_of("folder:/no/such/place").read(Path("/data"), "train", 32)


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    real_formats.write_folder(tmp_path)
    broken = sorted((tmp_path / "dog").iterdir())[0]
    for part_broken in sorted((tmp_path / "dog").iterdir()):  # whichever part it falls into
        part_broken.write_bytes(part_broken.read_bytes()[:900] if content is None else content)
    with pytest.raises(ValueError, match=rf"^{broken.parent}/\d+\.png cannot be decoded as an image: ") as raised:
        dataset_of(f"folder:{tmp_path}").read(tmp_path, "train", 32)
    assert "\n" not in str(raised.value)

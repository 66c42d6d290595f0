"""folder:PATH: a folder of image files for each class, in two parts (train/ and test/ or val/) or in one, which is
split."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data.dataset import Dataset, Decoded, Part
from trainables.data.pictures import decoded_files
from trainables.data.splits import split

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_TEST_FRACTION = 0.2  # where the folder has no test part of its own
_TEST_SEED = 0


class _Listing(NamedTuple):
    classes: tuple[str, ...]
    files: list[Path]
    labels: np.ndarray  # [N] int64


def folder_dataset(path: str) -> Dataset:
    """The dataset in the folder ``path``, which is taken from the data root where it is relative."""
    return Dataset(
        name=f"folder:{path}",
        reader=partial(_read, path),
        num_classes=None,
        mean=None,
        std=None,
        fingerprint=partial(_fingerprint, path),
    )


def _read(path: str, root: Path, part: Part, image_size: int) -> Decoded:
    base = _base(path, root)
    listing = _listing(base, part)
    return Decoded(decoded_files(listing.files, image_size), listing.labels, listing.classes)


def _fingerprint(path: str, root: Path) -> list[str]:
    base = _base(path, root)
    files = [file for folder in (_two_parts(base) or {"train": base}).values() for file in _images_below(folder)]
    states = [(file.relative_to(base).as_posix(), file.stat()) for file in files]
    return [str(base), *(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)]


def _base(path: str, root: Path) -> Path:
    base = (root / Path(path).expanduser()).resolve()
    if not base.is_dir():
        raise ValueError(f"folder:{path}: there is no folder {base} (a relative PATH is taken from the data root)")
    return base


def _listing(base: Path, part: Part) -> _Listing:
    parts = _two_parts(base)
    if parts is None:
        whole = _by_class(base)
        train_ids, test_ids = split(whole.labels, _TEST_FRACTION, _TEST_SEED)
        ids = train_ids if part == "train" else test_ids
        return _Listing(whole.classes, [whole.files[i] for i in ids], whole.labels[ids])
    classes = [folder.name for folder in _class_folders(parts["train"])]
    others = set(classes) ^ {folder.name for folder in _class_folders(parts["test"])}
    if others:
        raise ValueError(f"{parts['train']} and {parts['test']} must have the same classes; not in both: {min(others)}")
    return _by_class(parts[part])


def _two_parts(base: Path) -> dict[Part, Path] | None:
    """The folders of the two parts; None where ``base`` holds the classes (of which one may well be called train)."""
    train = base / "train"
    if not train.is_dir() or not _class_folders(train):
        return None
    present = [name for name in ("test", "val") if (base / name).is_dir()]
    if not present:
        raise ValueError(f"{base} has a train folder of classes, but neither test nor val beside it")
    return {"train": train, "test": base / present[0]}


def _by_class(folder: Path) -> _Listing:
    classes = _class_folders(folder)
    if len(classes) < 2:
        raise ValueError(f"{folder} must hold one folder per class, at least 2, and has {len(classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, of_class in enumerate(classes):
        images = _images_below(of_class)
        if not images:
            raise ValueError(f"{of_class} has no images ({', '.join(_SUFFIXES)})")
        files += images
        labels += [label] * len(images)
    _tell_what_is_skipped(folder, len(files))
    return _Listing(tuple(entry.name for entry in classes), files, np.array(labels, np.int64))


def _class_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and _is_visible(file))


def _is_visible(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def _tell_what_is_skipped(folder: Path, taken: int) -> None:
    skipped = sum(_is_visible(file) for file in folder.rglob("*")) - taken
    if skipped:
        message = "%s: %d files are skipped: no images (%s), or in no class folder"
        logging.getLogger(__name__).warning(message, folder, skipped, ", ".join(_SUFFIXES))

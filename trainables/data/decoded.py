"""Each part of a dataset is decoded once, into a file that every process of a machine maps into memory and shares.
The dataset's own files are needed only that once."""

import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
from filelock import FileLock

from trainables.data import dataset_of
from trainables.data.config import DataConfig
from trainables.data.dataset import Decoded, Part, PerChannel
from trainables.data.image_file import DamagedFile, Images, checksum, read_images, write_images

_FORMAT = 1  # part of every file's key: raise it when what is in the files changes
_AT_ONCE = 4096  # images
_LEAST_STD = 1 / 255  # images of one colour would have none


def open_part(config: DataConfig, part: Part, storage: Path, root: Path) -> Images:
    """The images of one part, decoded from the files below ``root`` when ``storage`` does not have them yet.

    Two processes never decode one part at once. A file that is no Arrow file, holds another number of images than it
    says or, up to 2 GiB, has a wrong checksum is decoded anew, with a warning in the log. ``ValueError`` when the
    dataset cannot be read or the result cannot be kept.
    """
    path = decoded_path(config, part, storage, root)
    try:
        return read_images(path)
    except (FileNotFoundError, DamagedFile):
        pass  # looked at again under the lock, since another process may be decoding
    constants = _constants(config, part, storage, root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _is_sound(path):
                _decode(config, part, path, root, constants)
            return read_images(path)
    except OSError as error:
        raise ValueError(f"{config.name} cannot be decoded into {path}: {error}") from error


def decoded_path(config: DataConfig, part: Part, storage: Path, root: Path) -> Path:
    """Where the decoded part is kept: ``<storage>/data/<dataset>-<size>px-<key>.<part>.arrow``."""
    dataset = dataset_of(config.name)
    name = re.sub(r"\W+", "_", Path(dataset.name).name if ":" in dataset.name else dataset.name)
    source = [_FORMAT, dataset.name, config.image_size, dataset.mean, dataset.std, dataset.fingerprint(root)]
    key = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:12]
    return storage / "data" / f"{name}-{config.image_size}px-{key}.{part}.arrow"


def _constants(config: DataConfig, part: Part, storage: Path, root: Path) -> tuple[PerChannel, PerChannel] | None:
    """The dataset's mean and std, or those of its training part; None: to be measured on the images that are read."""
    dataset = dataset_of(config.name)
    if dataset.mean is not None and dataset.std is not None:
        return dataset.mean, dataset.std
    if part == "train":
        return None
    training = open_part(config, "train", storage, root)
    return training.mean, training.std


def _is_sound(path: Path) -> bool:
    try:
        read_images(path)
    except FileNotFoundError:
        return False
    except DamagedFile as damage:
        logging.getLogger(__name__).warning("%s; the images are decoded again", damage)
        return False
    return True


def _decode(
    config: DataConfig, part: Part, path: Path, root: Path, constants: tuple[PerChannel, PerChannel] | None
) -> None:
    decoded = dataset_of(config.name).read(root, part, config.image_size)
    mean, std = constants or mean_and_std(decoded)
    sha256 = checksum(decoded.images, decoded.labels)
    write_images(path, Images(decoded.images, decoded.labels, decoded.classes, mean, std, sha256))


def mean_and_std(decoded: Decoded) -> tuple[PerChannel, PerChannel]:
    """The mean and standard deviation of each channel, pixels 0 to 1; exact sums, so the same on every machine."""
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(decoded.images), _AT_ONCE):
        some = decoded.images[start : start + _AT_ONCE]
        counts += np.stack([np.bincount(some[:, channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    std = np.maximum(np.sqrt(variance), _LEAST_STD)
    return _three(mean), _three(std)


def _three(values: np.ndarray) -> PerChannel:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue

"""One part of a dataset as an uncompressed Arrow IPC file, mapped into memory when it is read."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainables.arrow_file import map_batch, write_batch
from trainables.data.dataset import PerChannel

_CHECKSUM_UP_TO_BYTES = 2 * 2**30  # at every opening; a larger file would take seconds, at every start of a process


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a dataset. ``images`` is the mapped file itself: read-only, and not in memory until it is read.

    ``mean`` and ``std`` are those of the training part; ``sha256`` is that of the pixels and labels.
    """

    images: np.ndarray  # [N, 3, H, W] uint8
    labels: np.ndarray  # [N] int64
    classes: tuple[str, ...]
    mean: PerChannel
    std: PerChannel
    sha256: str

    def __len__(self) -> int:
        return len(self.images)


class DamagedFile(ValueError):
    """A file of decoded images is no Arrow file, or does not hold what it says."""


def checksum(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256, hexadecimal, of the pixels followed by the labels."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def write_images(path: Path, part: Images) -> None:
    """Write ``part`` to ``path`` in one step: a reader finds all of it or nothing. The caller holds the file's lock."""
    count, _, size, _ = part.images.shape
    columns = [
        pa.Array.from_buffers(pa.binary(3 * size * size), count, [None, pa.py_buffer(part.images)]),
        pa.array(part.labels, pa.int64()),
    ]
    facts = {"classes": part.classes, "mean": part.mean, "std": part.std, "image_size": size, "images": count}
    facts["sha256"] = part.sha256
    table = pa.record_batch(columns, ["image", "label"])
    table = table.replace_schema_metadata({name: json.dumps(fact) for name, fact in facts.items()})
    for abandoned in path.parent.glob(f"{path.name}.*.partial"):  # by a process that was killed here
        abandoned.unlink()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write_batch(partial, path, table)


def read_images(path: Path) -> Images:
    """The part in ``path``, mapped, not copied. ``FileNotFoundError``, or ``DamagedFile`` in one line."""
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        batch, metadata = map_batch(path)
        batch.validate()
        facts = {name: json.loads(fact) for name, fact in metadata.items()}
        count, size = facts["images"], facts["image_size"]
        part = Images(
            images=_column(batch, "image", np.uint8, (count, 3, size, size)),
            labels=_column(batch, "label", np.int64, (count,)),
            classes=tuple(facts["classes"]),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            sha256=facts["sha256"],
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedFile(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if part.images.nbytes <= _CHECKSUM_UP_TO_BYTES and checksum(part.images, part.labels) != part.sha256:
        raise DamagedFile(f"{path} is damaged: its checksum is wrong")
    return part


def _column(batch: pa.RecordBatch, name: str, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """The column's bytes as an array that keeps the map alive. ``ValueError`` if the file holds another amount."""
    values = batch.column(name).buffers()[1]
    if batch.num_rows != shape[0]:
        raise ValueError(f"it holds {batch.num_rows} images of {shape[0]}")
    return np.frombuffer(values, kind).reshape(shape)

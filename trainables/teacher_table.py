"""The teacher's table: what it says about all training images in the views of one epoch is one Arrow file, computed by
whichever trial gets there first and mapped into memory by every other."""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.batches import Batches
from trainables.losses import LOSSES
from trainables.models import embedding_dim
from trainables.outputs import Batch, Outputs
from trainables.places import Places
from trainables.ranks import all_agree, first_with, from_first, from_rank, gather, own_rank, world_size
from trainables.table_file import DamagedTable, read_rows, reserve, write_rows
from trainables.teacher import LiveTeacher

TABULATED = frozenset({"embedding", "logits"})
CHECKED_ROWS = 16  # of the first file that a process maps, compared with a live forward
LOOK_SECONDS = 0.1  # between two looks for a file that another process is computing
HEADER_BYTES = 2048  # of an Arrow file, at most
UNAUGMENTED = -1  # the entry of the images as they are
NOTHING = -2  # no entry
_FORMAT = 1  # part of every table's key: raise it when what is in the files changes
log = logging.getLogger(__name__)


class TeacherTable:
    """Serves the teacher's outputs from files in ``places.storage / "tables"``, and computes what is missing there.

    A file holds [N, D] rows, one for each of ``batches.ids``: the embeddings, whose logits are one product with the
    teacher's last layer, or the logits alone where the config's loss reads no embeddings and they are shorter. Views
    repeat after V epochs, so there are at most min(epochs, V) files. A trial that waits for a file computes the next
    one meanwhile. Where the disk or ``places.table_gb`` has no room, the rest is computed live, rounded alike.

    The files lie in the storage that all nodes share: reading one (25 MB for CIFAR-100 and resnet32x4) is cheaper than
    computing it, and a cluster computes it once. With several ranks each computes its share. Every method that takes
    an epoch must then be called on all of them. Where each machine has a storage of its own, each has files of its own,
    and ranks send each other what theirs lack.
    """

    def __init__(self, config: TrialConfig, teacher: LiveTeacher, batches: Batches, places: Places) -> None:
        self.teacher, self.batches = teacher, batches
        self.column = "logits" if _logits_suffice(config, teacher) else "embedding"
        self.dtype = np.dtype(config.teacher.table_precision)
        self._last_layer = teacher.network.last_layer
        self.width = self._last_layer.out_features if self.column == "logits" else self._last_layer.in_features
        self.max_difference = float("nan")  # of the checked rows, relative to the largest value among them
        self._file_bytes = len(batches.ids) * self.width * self.dtype.itemsize + HEADER_BYTES
        self._limit, self._own_files = int(places.table_gb * 2**30), places.remote is not None
        self._folder = places.storage / "tables" / _key(config, teacher, batches, self.column)
        row_of = np.full(len(batches.part), -1)
        row_of[batches.ids] = np.arange(len(batches.ids))
        self._row_of, self._row_of_there = row_of, torch.from_numpy(row_of).to(batches.device)
        self._rows: dict[int, np.ndarray] = {}  # mapped files by entry

    @staticmethod
    def serves(config: TrialConfig) -> bool:
        """Whether the config's losses read nothing but what a table holds; feature maps would be too large."""
        return LOSSES[config.loss.name].needs <= TABULATED

    def epoch(self, number: int, last: int) -> Callable[[Batch], Outputs]:
        """What stands for the teacher in epoch ``number`` of a trial with ``last`` epochs."""
        views = self.batches.schedule.views
        ahead = (epoch % views for epoch in range(number, min(last, number + views - 1) + 1))
        rows = self._mapped(list(ahead))
        if rows is None:
            return self._live
        if self.batches.device.type == "cpu":
            return partial(self._look_up, rows)
        return partial(self._look_up_there, torch.tensor(rows).to(self.batches.device))

    def unaugmented(self) -> Tensor:
        """The embeddings of the images as they are, [N, D] float32 on the CPU."""
        assert self.column == "embedding", "this table holds logits"
        rows = self._mapped([UNAUGMENTED])
        return torch.from_numpy((self._computed(UNAUGMENTED) if rows is None else rows).astype(np.float32))

    def _look_up(self, rows: np.ndarray, batch: Batch) -> Outputs:
        found = np.take(rows, np.take(self._row_of, batch.indices.numpy()), axis=0)  # [B, D]
        return self._outputs(torch.from_numpy(found))

    def _look_up_there(self, rows: Tensor, batch: Batch) -> Outputs:
        return self._outputs(rows.index_select(0, self._row_of_there[batch.indices]))

    def _live(self, batch: Batch) -> Outputs:
        said: Tensor = getattr(self.teacher(batch), self.column)
        return self._outputs(said.to(torch.float16) if self.dtype == np.float16 else said)

    def _outputs(self, found: Tensor) -> Outputs:
        found = found.float()
        if self.column == "logits":
            return Outputs((), found.new_empty(len(found), 0), found)
        with torch.no_grad():
            return Outputs((), found, self._last_layer(found))

    def _mapped(self, entries: list[int]) -> np.ndarray | None:
        """The rows of the first entry; the others may be computed while another process computes it. None: no room."""
        wanted = entries[0]
        if self._own_files and world_size() > 1:  # alike on all ranks: what was sent to this one may have no file here
            self._rows = {entry: rows for entry, rows in self._rows.items() if entry == wanted}
        if wanted in self._rows:
            with contextlib.suppress(OSError):
                os.utime(self._folder)  # it is in use
            return self._rows[wanted]
        while not self._agree(self._read(wanted)):
            if self._sent(wanted):
                break
            if not self._compute_one(entries):
                return None
        self._check(wanted)
        return self._rows[wanted]

    def _sent(self, entry: int) -> bool:
        """Where machines have storages of their own: give the rows to the ranks that lack them. False where none has
        them."""
        if not self._own_files or (sender := first_with(entry in self._rows, self.batches.device)) is None:
            return False
        rows = self._rows.get(entry, np.empty((len(self.batches.ids), self.width), self.dtype))
        sent = from_rank(sender, torch.tensor(rows).to(self.batches.device)).cpu().numpy()
        if entry not in self._rows:
            self._rows[entry] = sent
            self._keep(entry, sent)
            self._read(entry)  # mapped, if it has a file now
        return True

    def _keep(self, entry: int, rows: np.ndarray) -> None:
        """For later trials on this machine, if there is room and no other rank does it."""
        with _Claim(self._path, [entry]) as claim:
            draft = reserve(self._path(entry), self._file_bytes, self._limit) if claim.entry == entry else None
            if draft is not None:
                write_rows(draft, self._path(entry), self.column, rows)

    def _read(self, entry: int) -> bool:
        shape = (len(self.batches.ids), self.width)
        try:
            self._rows[entry] = read_rows(self._path(entry), shape, self.dtype)
        except FileNotFoundError:
            return False
        except DamagedTable as damage:
            log.warning("%s; it is computed again", damage)
            self._path(entry).unlink(missing_ok=True)
            return False
        return True

    def _compute_one(self, entries: list[int]) -> bool:
        """Compute the first entry that is missing and that nobody else computes; wait a little where there is none.
        False where there is no room for another file."""
        first = own_rank() == 0
        with _Claim(self._path, entries if first else []) as claim:
            entry = from_first(claim.entry, self.batches.device)
            if entry == NOTHING:
                time.sleep(LOOK_SECONDS)
                if self.batches.watch is not None:
                    self.batches.watch()
                return True
            path = self._path(entry)
            draft = reserve(path, self._file_bytes, self._limit) if first else None
            if not self._agree(draft is not None or not first):
                return False
            rows = self._computed(entry)
            return self._agree(draft is None or write_rows(draft, path, self.column, rows))

    def _agree(self, yes: bool) -> bool:
        return all_agree(yes, self.batches.device)

    def _computed(self, entry: int) -> np.ndarray:
        """[N, D]. Each rank computes an equal, contiguous share."""
        ids = self.batches.ids
        each = -(-len(ids) // world_size())
        padded = np.resize(ids, each * world_size())  # the first ids again, where the shares do not come out even
        mine = padded[own_rank() * each : (own_rank() + 1) * each]
        said = gather(self._said(entry, mine))[: len(ids)].cpu().numpy()
        with np.errstate(over="ignore"):
            stored = said.astype(self.dtype)
        if not np.isfinite(stored).all():
            told = f"the teacher's {self.column} do not fit {self.dtype}"
            raise ValueError(f"{told}: give --set teacher.table_precision=float32")
        return stored

    def _said(self, entry: int, ids: np.ndarray) -> Tensor:
        """The teacher's rows for these images in the views of that entry, [n, D] float32 on the device."""
        batches = self.batches
        served = batches.unaugmented(ids) if entry == UNAUGMENTED else batches.in_views_of(entry, ids)
        return self.teacher.rows(served, self.column)

    def _check(self, entry: int) -> None:
        """Compare a random sample of the first file that this process maps with what the teacher says now."""
        if not np.isnan(self.max_difference):
            return
        ids = self.batches.ids
        sample = np.sort(np.random.default_rng(entry % 2**32).permutation(len(ids))[:CHECKED_ROWS])
        live = self._said(entry, ids[sample]).cpu().numpy()
        rows = self._rows[entry][sample].astype(np.float32)
        self.max_difference = float(np.abs(rows - live).max() / max(np.abs(live).max(), 1e-12))
        if self.max_difference > _tolerance(self.teacher.precision, self.dtype, self.batches.device):
            raise ValueError(
                f"{self._path(entry)} does not hold what the teacher says (off by {self.max_difference:.2g} of its "
                f"largest value): delete {self._folder}"
            )

    def _path(self, entry: int) -> Path:
        name = "unaugmented" if entry == UNAUGMENTED else f"epoch-{entry:04d}"
        return self._folder / f"{name}.arrow"


def table_bytes(config: TrialConfig, images: int) -> int:
    """How much the files of a config's whole table take, for so many training images: an upper bound."""
    row = embedding_dim(config.teacher.architecture) * np.dtype(config.teacher.table_precision).itemsize
    return min(config.epochs, config.data.views) * (images * row + HEADER_BYTES) if TeacherTable.serves(config) else 0


class _Claim:
    """The lock of the first entry whose file is missing and that no other process holds."""

    def __init__(self, path: Callable[[int], Path], entries: Iterable[int]) -> None:
        self.entry = NOTHING
        self._lock: FileLock | None = None
        for entry in entries:
            if path(entry).is_file():
                continue
            path(entry).parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path(entry)}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            if path(entry).is_file():  # computed since it was looked for
                lock.release()
                continue
            self.entry, self._lock = entry, lock
            return

    def __enter__(self) -> "_Claim":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()


def _logits_suffice(config: TrialConfig, teacher: LiveTeacher) -> bool:
    layer = teacher.network.last_layer
    return "embedding" not in LOSSES[config.loss.name].needs and layer.out_features < layer.in_features


def _key(config: TrialConfig, teacher: LiveTeacher, batches: Batches, column: str) -> str:
    """Sixteen hexadecimal digits of everything that the rows depend on."""
    data = config.data
    source = {
        "format": _FORMAT,
        "teacher": [config.teacher.architecture, config.teacher.weights],
        "images": [batches.part.sha256, hashlib.sha256(batches.ids.tobytes()).hexdigest()],
        "constants": [batches.part.mean, batches.part.std],
        "schedule": [data.schedule_seed, data.padding, data.flip],
        "rows": [column, config.teacher.table_precision, teacher.precision],
        "computed_by": [torch.__version__, batches.device.type],
    }
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]


def _tolerance(precision: str, dtype: np.dtype, device: torch.device) -> float:
    """How far a row may be from a live forward in another batch, relative to the largest value: what the stored type
    and the arithmetic (on CUDA, TensorFloat32) lose, several times over."""
    if precision == "bfloat16":
        return 0.1
    if device.type == "cuda":
        return 0.02
    return 2e-3 if dtype == np.float16 else 1e-5

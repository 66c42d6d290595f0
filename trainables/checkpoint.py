"""Checkpoints of a training: the newest two, each with a checksum, written whole or not at all. The newest whole one is
what it goes on from."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import torch

from trainables.mirror import Mirror
from trainables.whole_file import read_sealed, write_sealed

FILES = "checkpoint-*.pt"  # their names
KEPT = 2  # a damaged one is replaced by the one before it
LIMIT_BYTES = 10 * 2**30  # for the checkpoints of one trial, where nothing else is asked for
SHARE = 0.05  # of the time goes into writing them, at most
log = logging.getLogger(__name__)


class Checkpoints:
    """Of the training whose folder this is, in ``limit_bytes``, and in the mirror. One process writes; any number read.

    A file holds what ``torch.save`` makes of a state of tensors and plain values, and behind it its SHA-256.
    """

    def __init__(self, folder: Path, mirror: Mirror, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._mirror = mirror
        self._written, self._writing = time.perf_counter(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        return (time.perf_counter() - self._written) * SHARE >= self._writing

    def write(self, state: dict[str, Any]) -> None:
        """Add one, and delete those that are no longer needed. OSError where it is larger than the limit, or disk or
        mirror do not take it: those from before are then still there. Where two are too many for the limit, one is
        kept."""
        started = time.perf_counter()
        try:
            self._write(state)
            self._mirror.push_only(self.folder, FILES)
        finally:
            self._written = time.perf_counter()
            self._writing = self._written - started

    def _write(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        if len(content) > self.limit_bytes:
            told = f"it takes {len(content) / 2**30:.3g} GiB, and {self.limit_bytes / 2**30:.3g} GiB are allowed"
            raise OSError(f"{told} (--checkpoint-gb)")
        kept = min(KEPT, self.limit_bytes // len(content))
        older = self.files()
        number = int(older[0].stem.split("-")[1]) + 1 if older else 1
        write_sealed(self.folder / f"checkpoint-{number:06d}.pt", content)
        for file in older[kept - 1 :]:
            file.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """The newest whole state, its tensors on the CPU; None where there is none. Damaged files are deleted."""
        self._mirror.pull_only(self.folder, FILES)
        for file in self.files():
            try:
                content = read_sealed(file)
            except FileNotFoundError:  # another process found it damaged
                continue
            if content is not None:
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return state
            log.warning("%s is damaged (its checksum is wrong): the trial goes on from the one before it", file)
            file.unlink(missing_ok=True)
        return None

    def files(self) -> list[Path]:
        """The newest first."""
        return sorted(self.folder.glob(FILES), reverse=True)

    def delete(self) -> None:
        """All of them, and the drafts of processes that were killed."""
        for file in [*self.files(), *self.folder.glob(".checkpoint-*")]:
            file.unlink(missing_ok=True)
        self._mirror.push_only(self.folder, FILES)

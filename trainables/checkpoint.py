"""A trial's checkpoints: the newest two, each with a checksum, written whole or not at all. The newest whole one is
what a trial goes on from."""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2  # a damaged one is replaced by the one before it
DIGEST_BYTES = hashlib.sha256().digest_size
log = logging.getLogger(__name__)


class Checkpoints:
    """Of the trial whose folder this is. One process writes; any number read.

    A file holds what ``torch.save`` makes of a state of tensors and plain values, and behind it its SHA-256.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, state: dict[str, Any]) -> None:
        """Add one, and delete those that are no longer needed. OSError where the disk does not take it: those from
        before are then still there."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        self.folder.mkdir(parents=True, exist_ok=True)
        older = self.files()
        number = int(older[0].stem.split("-")[1]) + 1 if older else 1
        draft = self.folder / f".checkpoint.{os.getpid()}"
        try:
            with draft.open("wb") as written:
                written.write(content)
                written.write(hashlib.sha256(content).digest())
                written.flush()
                os.fsync(written.fileno())  # or a power cut could leave the name without the content
            draft.replace(self.folder / f"checkpoint-{number:06d}.pt")
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        for file in older[KEPT - 1 :]:
            file.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """The newest whole state, its tensors on the CPU; None where there is none. Damaged files are deleted."""
        for file in self.files():
            try:
                return _read(file)
            except _Damaged as damage:
                log.warning("%s is damaged (%s): the trial goes on from the one before it", file, damage)
                file.unlink(missing_ok=True)
            except FileNotFoundError:  # another process found it damaged
                continue
        return None

    def files(self) -> list[Path]:
        """The newest first."""
        return sorted(self.folder.glob("checkpoint-*.pt"), reverse=True)

    def delete(self) -> None:
        """All of them, and the drafts of processes that were killed."""
        for file in [*self.files(), *self.folder.glob(".checkpoint.*")]:
            file.unlink(missing_ok=True)


class _Damaged(Exception):
    """Not what was written."""


def _read(file: Path) -> dict[str, Any]:
    content = memoryview(file.read_bytes())
    state, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(state).digest() != bytes(digest):
        raise _Damaged("its checksum is wrong")
    held: dict[str, Any] = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    return held

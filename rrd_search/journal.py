"""The write-ahead file of the recorder: one JSON event a line, and how far they were acknowledged.

A line counts once its newline is on disk; a torn last line (a killed driver) is cut off when the file is opened. Each
begins with the CRC-32 of the rest, so that a damaged one is told from a whole one.
"""

import contextlib
import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK_BYTES = 256 * 1024  # read and sent at once
SEAL = b'{"crc32":"%08x",'  # how a line begins
SEAL_BYTES = len(SEAL % 0)

Event = dict[str, Any]


@dataclass
class _Place:
    """A place in the file, as bytes from its start and as events before it."""

    offset: int = 0
    events: int = 0


@dataclass(frozen=True)
class Chunk:
    """Some events that were not acknowledged yet, and what to acknowledge when they are sent."""

    events: list[Event]
    end: int  # byte offset behind the last of them
    lines: int  # damaged ones included


class Journal:
    """Events in a file in ``folder``, appended by any thread, read and acknowledged by one.

    ``server`` names who acknowledges: for another server, everything counts as new. Appending never raises: what the
    disk does not take waits in memory and is tried again with the next event.
    """

    def __init__(self, folder: Path, server: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "record.jsonl"
        self.problem = ""  # why the last write failed
        self.damaged = 0  # lines that are not events
        self._acknowledged_path = folder / "record.offset"
        self._server = hashlib.sha256(server.encode()).hexdigest()[:16]  # hashed: a URI may hold a password
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []  # lines that the disk did not take yet
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)
        self._written = _Place(whole, content.count(b"\n"))
        self._acknowledged = self._load_acknowledged(content[:whole])

    def append(self, event: Event) -> None:
        """Write one event as a line, in one system call."""
        line = _line_of(event)
        with self._lock:
            self._waiting.append(line)
            self._write_waiting()

    def events(self) -> Iterator[Event]:
        """All events in the file, from the first."""
        for line in _lines_of(self.path.read_bytes()):
            event = _event_of(line)
            if event is not None:
                yield event

    def unacknowledged(self) -> Chunk:
        """The next events to send, as many as fit ``CHUNK_BYTES`` and at least one where there is one."""
        with self._lock:
            if self._waiting:
                self._write_waiting()
            end = self._written.offset
        with open(self.path, "rb") as file:
            file.seek(self._acknowledged.offset)
            content = file.read(min(CHUNK_BYTES, end - self._acknowledged.offset))
            whole = content.rfind(b"\n") + 1
            content = content[:whole] if whole else content + file.readline()
        lines = _lines_of(content)
        events = [event for event in map(_event_of, lines) if event is not None]
        self.damaged += len(lines) - len(events)
        return Chunk(events, self._acknowledged.offset + len(content), len(lines))

    def acknowledge(self, chunk: Chunk) -> None:
        """Remember, also on disk, that the events of ``chunk`` arrived."""
        self._acknowledged = _Place(chunk.end, self._acknowledged.events + chunk.lines)
        self._save_acknowledged()

    def rewind(self) -> None:
        """Count every event as not sent."""
        self._acknowledged = _Place()
        self.damaged = 0
        self._save_acknowledged()

    @property
    def total(self) -> int:
        """How many events there are."""
        return self._written.events + len(self._waiting)

    @property
    def unsent(self) -> int:
        """How many events were not acknowledged."""
        return self.total - self._acknowledged.events

    @property
    def unwritten(self) -> int:
        """How many events the disk did not take."""
        return len(self._waiting)

    def _write_waiting(self) -> None:
        data = b"".join(self._waiting)
        try:
            if os.write(self._file, data) != len(data):
                raise OSError("No space left on device")
        except OSError as error:
            self.problem = error.strerror or str(error)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._written.offset)  # a part of a line would spoil the next
            return
        self._written = _Place(self._written.offset + len(data), self._written.events + len(self._waiting))
        self._waiting.clear()

    def _load_acknowledged(self, content: bytes) -> _Place:
        try:
            saved = json.loads(self._acknowledged_path.read_text())
            offset, server = int(saved["offset"]), saved["server"]
        except (OSError, ValueError, TypeError, KeyError):
            return _Place()
        at_line_start = 0 < offset <= len(content) and content[offset - 1 : offset] == b"\n"
        if server == self._server and at_line_start:
            return _Place(offset, content.count(b"\n", 0, offset))
        self._acknowledged_path.unlink()  # of another server or another file; all is sent again
        return _Place()

    def _save_acknowledged(self) -> None:
        new = self._acknowledged_path.with_suffix(".offset.new")
        with contextlib.suppress(
            OSError
        ):  # then the next start sends again what is there already, which changes nothing
            new.write_text(json.dumps({"offset": self._acknowledged.offset, "server": self._server}))
            os.replace(new, self._acknowledged_path)


def unsent_in(folder: Path) -> int:
    """How many events of the journal in a folder were not acknowledged; for those who only look, while it is used."""
    try:
        with open(folder / "record.jsonl", "rb") as file:
            try:
                file.seek(int(json.loads((folder / "record.offset").read_text())["offset"]))
            except (OSError, ValueError, TypeError, KeyError):
                file.seek(0)
            return sum(block.count(b"\n") for block in iter(lambda: file.read(CHUNK_BYTES), b""))
    except FileNotFoundError:
        return 0


def _lines_of(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]


def _line_of(event: Event) -> bytes:
    body = json.dumps(event, allow_nan=False, default=str, separators=(",", ":")).encode()[1:]
    return SEAL % zlib.crc32(body) + body + b"\n"


def _event_of(line: bytes) -> Event | None:
    """None where the line is not as it was written."""
    seal, body = line[:SEAL_BYTES], line[SEAL_BYTES:]
    return json.loads(b"{" + body) if seal == SEAL % zlib.crc32(body) else None

"""Ctrl-C and SIGTERM, heard while trials run: the first asks to stop, a second one ends the process at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATEST_SECONDS = 30.0  # after the first one: a machine that goes down tells Ray too, and who asks it then waits long
SHOW_CURSOR = "\x1b[?25h"  # which a live display had hidden


class Signals:
    """``received`` is the first of them, None until then. Whatever is ended at once loses no more than a kill would."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._latest: threading.Timer | None = None

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM; 0 where none came."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._latest is not None:
            self._latest.cancel()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            _end(number)
        self.received = number
        self._latest = threading.Timer(LATEST_SECONDS, _end, (number,))
        self._latest.daemon = True
        self._latest.start()


def _end(number: int) -> None:
    os.write(2, b"ended at once; the same command goes on\n")
    if os.isatty(1):
        os.write(1, SHOW_CURSOR.encode())
    os._exit(128 + number)

"""Ctrl-C and SIGTERM, heard while trials run: the first asks to stop, a second one ends the process at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"  # which a live display had hidden


class Signals:
    """``received`` is the first of them, None until then. Whatever is ended at once loses no more than a kill would."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM; 0 where none came."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if os.isatty(1):
                os.write(1, SHOW_CURSOR.encode())
            os._exit(128 + number)
        self.received = number

"""The disk of a search: while it is full, nothing new is started, and the user is told."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

RESERVE_BYTES = 16 * 2**20  # for study and records, while nothing new is started
LOOK_SECONDS = 2.0


class Disk:
    """That ``folder`` lies on. ``say`` hears when it is full, and when there is room again."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._looked = 0.0
        self.full = False
        self.look()

    def look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        free = shutil.disk_usage(self._folder).free
        if not self.full and free < RESERVE_BYTES:
            self._say(f"the disk of {self._folder} is full: trials wait until there is room; Ctrl-C ends, resumable")
        if self.full and free >= RESERVE_BYTES:
            self._say("there is room on the disk again")
        self.full = free < RESERVE_BYTES

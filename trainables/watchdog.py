"""A watchdog: ends this process where its work stands still, and leaves word of where it stood."""

import faulthandler
import time
from pathlib import Path
from typing import IO

HANG_SECONDS = 900.0  # without a single batch, after which a process counts as hung
ARMED_EVERY = 0.05  # of that time: arming starts a thread, which takes longer than some steps


class Watchdog:
    """Armed by ``alive``. Where that is not called again for ``seconds``, the process ends with exit code 1, and
    ``file`` holds the stack of each of its threads: also where a library hangs and no Python runs any more. One at a
    time in a process.
    """

    def __init__(self, file: Path, seconds: float = HANG_SECONDS) -> None:
        self._path, self._seconds = file, seconds
        self._file: IO[bytes] | None = None
        self._armed = 0.0

    def alive(self) -> None:
        """Work goes on."""
        now = time.monotonic()
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        elif now - self._armed < ARMED_EVERY * self._seconds:
            return
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
        self._armed = now

    def off(self) -> None:
        """Nothing is expected until the next ``alive``."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._file = None


def hung(file: Path) -> bool:
    """Whether a process that this file was given to ended because it stood still."""
    return file.is_file() and file.stat().st_size > 0

"""What a person sees of epochs that follow one another: on a terminal a live bar, elsewhere a line now and then."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rrd_search.progress import LINE_SECONDS, duration, redraws, say


class EpochDisplay:
    """``total`` epochs of ``what``. Speaks by itself while an epoch lasts."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self.console, self.what, self.total = console, what, total
        self.done = 0
        self._skipped = 0  # epochs of an earlier run
        self._told = ""
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        columns = (SpinnerColumn(), "{task.description}", BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self._live = Progress(*columns, TextColumn("{task.fields[told]}"), console=console, transient=True)
        self._bar = self._live.add_task(what, total=total, told="")

    def __enter__(self) -> Self:
        if redraws(self.console):
            self._live.start()
        else:
            self._speaker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if redraws(self.console):
            self._live.stop()
        else:
            self._speaker.join()

    def epoch(self, done: int, told: str, new: bool = True) -> None:
        """``done`` epochs are behind it, the last of them ``new`` and those before it that were not told of an earlier
        run's; ``told`` is what there is to say of the last one."""
        self._skipped += done - self.done - new
        self.done, self._told = done, told
        self._live.update(self._bar, completed=self.done, told=f"{told}{self._left()}")

    def say(self, line: str) -> None:
        say(self.console, line)

    def _speak(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            at = f", {self._told}" if self._told else ""
            self.say(f"  {self.what}: {self.done} of {self.total} epochs{at}{self._left()}")

    def _left(self) -> str:
        if self.done == self._skipped:
            return ""
        each = (time.monotonic() - self._started) / (self.done - self._skipped)
        return f", about {duration(each * (self.total - self.done))} left"

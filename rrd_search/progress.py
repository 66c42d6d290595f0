"""What a person sees while a search runs: on a terminal a live table, elsewhere a line now and then."""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_SECONDS = 8.0  # between two lines where there is no terminal
RECENT = 6  # ended trials that stay in the live table
SHOWN = 16  # running trials of a table
NAMED = 4  # and of a line


@dataclass
class Row:
    """A trial as it is shown; ``value`` is the held-out accuracy of its last epoch."""

    trial_id: str
    epochs: int
    told: str  # the name of its point, or what it varies
    epoch: int = 0
    value: float = float("nan")
    state: str = "starting"  # until it has a process
    started: float = field(default_factory=time.monotonic)


class Progress:
    """Trials done and running, the best so far, the time left. ``total`` trials are to end, ``done`` of them have."""

    def __init__(self, console: Console, *, name: str, total: int, done: int, best: float | None) -> None:
        self.console = console
        self.name, self.total, self.done, self.best = name, total, done, best
        self.workers = 1  # trials that fit on the nodes that are there
        self.running: dict[str, Row] = {}
        self.ended: list[Row] = []
        self._seconds: list[float] = []  # of trials that have ended in this run
        self._spoken = time.monotonic()
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if redraws(console) else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def started(self, row: Row) -> None:
        self.running[row.trial_id] = row

    def begun(self, trial_id: str) -> None:
        """A trial has a process now."""
        row = self.running[trial_id]
        row.state, row.started = "running", time.monotonic()

    def epoch(self, trial_id: str, epoch: int, value: float) -> None:
        row = self.running[trial_id]
        row.epoch, row.value = epoch, value

    def finished(self, trial_id: str, state: str, counts: bool) -> None:
        """``counts``: whether its value may be the search's best."""
        row = self.running.pop(trial_id)
        row.state = state
        self.ended.append(row)
        self.done += 1
        self._seconds.append(time.monotonic() - row.started)
        if counts and state == "complete" and (self.best is None or row.value > self.best):
            self.best = row.value
        if not self._live:
            self.say(f"trial {row.trial_id} {state:8} {percent(row.value):>7} after epoch {row.epoch}  {row.told}")
            self._say_status()

    def left(self, trial_id: str) -> None:
        """A trial that is not done runs no longer."""
        self.running.pop(trial_id)

    def tick(self) -> None:
        """Called often; speaks where nothing was said for a while."""
        if not self._live and time.monotonic() - self._spoken > LINE_SECONDS:
            self._say_status()

    def say(self, line: str) -> None:
        self._spoken = time.monotonic()
        say(self.console, line)

    @property
    def status(self) -> str:
        running = sum(row.state == "running" for row in self.running.values())
        waiting = max(0, len(self.running) - max(running, self.workers))
        parts = [f"{self.done} of {self.total} trials done", f"{running} running"]
        if starting := len(self.running) - running - waiting:
            parts.append(f"{starting} starting")
        if waiting:
            parts.append(f"{waiting} waiting for nodes")
        if self.best is not None:
            parts.append(f"best {percent(self.best)}")
        if (left := self._seconds_left()) is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _say_status(self) -> None:
        running = [row for row in self.running.values() if row.state == "running"]
        at = ", ".join(f"{row.trial_id} epoch {row.epoch}/{row.epochs}" for row in running[:NAMED])
        at += f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
        self.say(f"  {self.status}" + (f" ({at})" if at else ""))

    def _seconds_left(self) -> float | None:
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        return max(self.total - self.done, 0) * mean / max(self.workers, 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.name}: {self.status}", style="bold")
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "state", "epoch", "", "accuracy", ""):
            table.add_column(column, no_wrap=True)
        for row in [*self.ended[-RECENT:], *list(self.running.values())[:SHOWN]]:
            bar = ProgressBar(total=row.epochs, completed=row.epoch, width=16)
            count = f"{row.epoch}/{row.epochs}"
            table.add_row(row.trial_id, row.state, count, bar, percent(row.value), row.told, style=STYLES[row.state])
        yield table


STYLES = {"starting": "yellow", "running": "cyan", "complete": "green", "pruned": "dim", "failed": "red"}


def say(console: Console, line: str) -> None:
    """A line as it is: it may hold what Rich would take for markup or a smiley, and is not broken."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def redraws(console: Console) -> bool:
    """Whether lines can be written over. A dumb terminal, as a script's `ray exec` has one, would show nothing."""
    return console.is_terminal and not console.is_dumb_terminal


def percent(fraction: float | None) -> str:
    """A fraction as people read accuracies."""
    return "-" if fraction is None or fraction != fraction else f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

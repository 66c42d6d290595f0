"""What a person sees of a running search, on a terminal that cannot redraw, as on none."""

import io

import pytest
from rich.console import Console

from rrd_search import progress
from rrd_search.progress import Progress, Row


@pytest.mark.parametrize("terminal", ["dumb", "unknown", None])
def test_lines_where_nothing_can_be_redrawn(terminal: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    said = io.StringIO()
    environment = {"TERM": terminal} if terminal else {}
    console = Console(file=said, force_terminal=terminal is not None, width=150, _environ=environment)
    with Progress(console, name="search", total=4, done=0, best=None) as shown:
        shown.workers = 1
        for trial_id in ("00000", "00001", "00002"):
            shown.started(Row(trial_id, 5, ""))
        shown.begun("00000")
        shown.tick()
    assert said.getvalue() == "  0 of 4 trials done, 1 running, 2 waiting for nodes (00000 epoch 0/5)\n"

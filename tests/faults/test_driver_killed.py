"""SIGKILL of the driver: at random moments, and at the moments between two of its writes."""

import random
import time
from pathlib import Path

import pytest
from ledger import Findings, examine, finished
from searches import Driver, Search
from tally import Tally

pytestmark = pytest.mark.slow
START_SECONDS = 20.0  # of a driver, until its first trial trains
# Between the writes of a trial's life: what one of them says and the next does not know yet.
BETWEEN = [
    {"at": "Study.propose", "call": 4, "when": "after"},
    {"at": "Study.report", "call": 7, "when": "after"},
    {"at": "Recorder.epoch", "call": 7, "when": "after"},
    {"at": "Study.tell", "call": 3, "when": "before"},
    {"at": "Study.tell", "call": 3, "when": "after"},
    {"at": "Recorder.end_trial", "call": 3, "when": "before"},
    {"at": "Recorder.end_trial", "call": 3, "when": "after"},
    {"at": "Students.ended", "call": 2, "when": "before"},
    {"at": "SearchFile.write", "call": 1, "when": "before"},
    {"at": "Recorder.end_search", "call": 1, "when": "before"},
]


def kill_at_random(search: Search, kills: int, chance: random.Random) -> tuple[set[str], list[str]]:
    """Start and kill the driver so often: one time in four anywhere in its start, else once its trials run. All trials
    that were ever finished, and what was wrong on the way."""
    ever: set[str] = set()
    wrong: list[str] = []
    killed: list[Driver] = []
    for _ in range(kills):
        driver = search.start()
        before = len(search.seen())
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0, START_SECONDS))
        else:
            search.await_seen(lambda seen, before=before: len(seen) > before, driver)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 4.0))
        driver.kill()
        killed.append(driver)
        now = finished(search)
        wrong += [f"trial {one} was finished before a kill" for one in sorted(ever - now)]
        ever |= now
    for driver in killed:
        driver.await_gone()
    return ever, wrong


@pytest.mark.parametrize("seed", [0])
def test_killed_at_random_moments(seed: int, long: bool, tmp_path: Path, tally: Tally) -> None:
    kills = 50 if long else 5
    search = Search(storage=tmp_path, options=("--epochs", "8") if long else ())
    ever, wrong = kill_at_random(search, kills, random.Random(seed))
    end = search.run()
    found = examine(search, ever)
    found.lost += wrong
    tally.add("driver: SIGKILL at random moments", kills, found, end.code == 0)
    assert end.code == 0, end.said
    assert not found.lines, "\n".join(found.lines)


@pytest.mark.long_form
@pytest.mark.parametrize("between", BETWEEN, ids=lambda one: f"{one['when']} {one['at']}")
def test_killed_between_two_writes(between: dict[str, object], tmp_path: Path, tally: Tally) -> None:
    search = Search(storage=tmp_path, trials=5)
    search.plan({**between, "fault": "kill"})
    killed = search.run()
    assert killed.code == -9, f"it was not killed: {killed.said}"
    ever = finished(search)
    end = search.run()
    found = examine(search, ever)
    tally.add("driver: SIGKILL between two writes", 1, found, end.code == 0)
    assert end.code == 0, end.said
    assert found == Findings(), "\n".join(found.lines)

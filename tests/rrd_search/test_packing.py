"""How many students share a device: measured with real processes (on the CPU here), and chosen by their total."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_search import BASE

from rrd_search import packing
from rrd_search.packing import Measured, choose, measure, preflight
from trainables.config import RRD
from trainables.places import Places

ALONE = replace(BASE, loss=RRD.Config(weight=0.0))


def measured(students: int, images_per_second: float, used: int = 10) -> Measured:
    return Measured(students=students, images_per_second=images_per_second, used_bytes=used, device_bytes=100)


@pytest.mark.parametrize(
    ("found", "students"),
    [
        ([measured(1, 100), measured(2, 180), measured(4, 260), measured(8, 262)], 4),
        ([measured(1, 100), measured(2, 103)], 1),
        ([measured(1, 100), measured(2, 190, used=50), measured(4, 300, used=95)], 2),
        ([measured(1, 100, used=95)], 1),
    ],
)
def test_the_fewest_near_the_best_that_fits(found: list[Measured], students: int) -> None:
    assert choose(found) == students


def test_students_are_measured_side_by_side(tmp_path: Path) -> None:
    found = measure(ALONE, Places(storage=tmp_path, data_root=tmp_path), "cpu", 2, 0.3)
    assert found is not None
    assert found.students == 2
    assert found.images_per_second > 0


def test_what_cannot_train_is_said(tmp_path: Path) -> None:
    config = replace(ALONE, batch_size=10**6)
    with pytest.raises(ValueError, match=r"not even one student trains on the device: ValueError: batch_size must be"):
        list(preflight(config, Places(storage=tmp_path, data_root=tmp_path), "cpu", 0.1))


class Started:
    """A process that is ready, and says so in the order of events."""

    def __init__(self, number: int, events: list[str], ready: bool = True) -> None:
        self.number, self.events, self.returncode = number, events, 0
        self.stdout = io.StringIO("ready\n" if ready else "")
        self.stdin = SimpleNamespace(write=lambda text: events.append(f"{text.strip()} {number}"), flush=lambda: None)

    def communicate(self) -> tuple[str, str]:
        self.events.append(f"wait {self.number}")
        return json.dumps({"images_per_second": 10.0, "used_bytes": 1, "device_bytes": 9}), ""

    def kill(self) -> None:
        self.events.append(f"kill {self.number}")
        self.returncode = -9


def test_all_train_before_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    numbers = iter(range(9))
    monkeypatch.setattr(packing, "_started", lambda command, stack: Started(next(numbers), events))
    found = measure(ALONE, Places(storage=tmp_path, data_root=tmp_path), "cpu", 3, 0.1)
    assert found is not None
    assert found.images_per_second == 30.0
    assert events == ["go 0", "go 1", "go 2", "wait 0", "wait 1", "wait 2"]


def test_none_trains_where_one_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    numbers = iter(range(9))
    monkeypatch.setattr(packing, "_started", lambda command, stack: Started(n := next(numbers), events, ready=n != 1))
    assert measure(ALONE, Places(storage=tmp_path, data_root=tmp_path), "cpu", 3, 0.1) is None
    assert events[:3] == ["kill 0", "kill 1", "kill 2"]

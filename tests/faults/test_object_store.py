"""Storage in an S3-compatible store: the driver is killed and its disk lost, and another machine goes on."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger import examine, finished
from s3_server import CREDENTIALS, PID, s3_server
from searches import Driver, Search
from tally import Tally

from rrd_search.storage import HOLDER
from trainables.mirror import Mirror
from trainables.places import Places

AWAY_SECONDS = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.long_form]


@dataclass(kw_only=True)
class Stored(Search):
    """A search whose storage is at a URI; ``machine`` is a folder that stands for the disk of a machine."""

    there: str
    machine: str = "one"

    @property
    def folder(self) -> Path:
        found = list((self.storage / self.machine / "rrd_search").glob(f"*/{self.name}"))
        return found[0] if found else self.storage / "nothing"

    def start(self, *more: str) -> Driver:
        self.environment |= {**CREDENTIALS, "XDG_CACHE_HOME": str(self.storage / self.machine)}
        return super().start("--storage", self.there, *more)

    def driver_is_long_gone(self) -> None:
        """As if its last sign of life were from yesterday."""
        places = Places(storage=self.folder.parent, data_root=self.storage, remote=self.there)
        holder = self.folder / HOLDER
        holder.write_text(json.dumps({**json.loads(holder.read_text()), "beat": time.time() - 86400}))
        Mirror(places).push(holder)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path) as uri:
        yield uri


def test_killed_here_and_continued_on_another_machine(there: str, tmp_path: Path, tally: Tally) -> None:
    """Machines change after every kill."""
    kills, chance = 8, random.Random(0)
    search = Stored(storage=tmp_path, there=there, mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db")
    ever: set[str] = set()
    wrong: list[str] = []
    for kill in range(kills):
        driver = search.start()
        ends = _finishes(search.seen()) + 1
        search.await_seen(lambda seen, ends=ends: _finishes(seen) >= ends, driver)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 2.0))
        driver.kill()
        now = finished(search)
        wrong += [f"trial {one} was finished before a kill" for one in sorted(ever - now)]
        ever |= now
        search.driver_is_long_gone()
        search.machine = f"after-{kill}"
    end = search.run()
    found = examine(search, ever)
    found.lost += wrong
    tally.add("driver and its disk lost, storage in S3", kills, found, end.code == 0)
    assert end.code == 0, end.said
    assert not found.lines, "\n".join(found.lines)


@pytest.mark.parametrize("seed", range(2))
def test_a_store_that_stands_still_for_a_while(seed: int, there: str, tmp_path: Path, tally: Tally) -> None:
    """Trials that start meanwhile wait for it, and none of them fails."""
    server = int((tmp_path / PID).read_text())
    search = Stored(storage=tmp_path, there=there, trials=8, mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db")
    driver = search.start()
    search.await_seen(lambda seen: _finishes(seen) >= 1 + seed, driver)
    os.kill(server, signal.SIGSTOP)
    time.sleep(AWAY_SECONDS)
    os.kill(server, signal.SIGCONT)
    driver.wait()
    found = examine(search, finished(search))
    tally.add(f"storage in S3 stands still for {AWAY_SECONDS:.0f} s", 1, found, driver.code == 0)
    assert driver.code == 0, driver.said
    assert not found.lines, "\n".join(found.lines)


def _finishes(seen: list[dict[str, Any]]) -> int:
    return sum(line["kind"] == "finish" for line in seen)

"""What goes wrong inside a search, and who stops it: each is told as what it is, and costs no other trial anything."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ledger import Findings, Told, examine, finished, trials_of
from searches import HERE, Driver, Search
from small_disk import small_disk
from tally import Tally

pytestmark = pytest.mark.slow
NOTICE_SECONDS = 10.0  # that a machine gives, which is taken away
TRIALS = 6


def fault(kind: str, trial: str, epoch: int = 2, times: int = 1) -> dict[str, Any]:
    """In the middle of an epoch of a trial."""
    return {"at": "Worker._epoch", "trial": trial, "epoch": epoch, "fault": kind, "times": times}


def ended(search: Search, driver: Driver, failing: int = 0) -> Findings:
    """The findings of a search that one driver brought to its end."""
    assert driver.code == 0, driver.said
    return examine(search, finished(search), failing)


def told(search: Search, trial_id: str) -> Told:
    return trials_of(search)[trial_id]


def interrupted(search: Search, chance: random.Random, *signals: int) -> tuple[int, float]:
    """Start a driver and signal it at a random moment while its trials run: Ctrl-C goes to all of its group, as from a
    terminal. Its exit code, and the seconds from the first signal to its end; it is killed where it takes too long."""
    driver, before = search.start(), len(search.seen())
    search.await_seen(lambda seen: len(seen) > before, driver)
    time.sleep(chance.uniform(0, 3))
    began = time.monotonic()
    for number in signals:
        if driver.runs:
            (os.killpg if number == signal.SIGINT else os.kill)(driver.process.pid, number)
            time.sleep(chance.uniform(0.2, 1.0))
    while driver.runs and (signals[0] != signal.SIGTERM or time.monotonic() - began < NOTICE_SECONDS):
        time.sleep(0.05)
    seconds = time.monotonic() - began
    driver.kill()
    return driver.code, seconds


@pytest.mark.long_form
def test_one_search_with_all_of_it(tmp_path: Path, tally: Tally) -> None:
    """NaN, no memory, a hanging process, a killed one, a space that raises, a second driver, Ctrl-C."""
    options = ("--hang-minutes", "0.2", "--scheduler", "none")
    search = Search(storage=tmp_path, trials=9, space=HERE / "broken_space.py", options=options)
    kinds = "nan", "out of memory", "hang", "kill"
    search.plan(*(fault(kind, f"{number:05d}") for number, kind in enumerate(kinds, 1)))
    driver = search.start("--max-concurrent", "1")
    search.await_seen(lambda seen: any(line["trial"] == "00001" for line in seen), driver)
    second = Search(storage=tmp_path, trials=9, space=search.space, options=search.options)
    second.log = tmp_path / "second.log"
    refused = second.run()
    assert refused.code == 2
    assert f"is being run by process {driver.process.pid}" in refused.said
    search.await_seen(lambda seen: any(line["trial"] == "00005" for line in seen), driver)
    os.killpg(driver.process.pid, signal.SIGINT)
    assert driver.wait() == 130, driver.said
    assert "The same command goes on with it" in driver.said
    ever = finished(search)
    end = search.run()
    found = examine(search, ever, failing=1)
    tally.add("seven kinds of failures in one search", 7, found, end.code == 0)
    assert end.code == 0, end.said
    assert not found.lines, found.lines
    assert "diverged" in told(search, "00001").reason
    assert os.cpu_count() == 1 or told(search, "00002").state == "complete"


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(4))
def test_disk_full(seed: int, tmp_path: Path, tally: Tally) -> None:
    """Twice in a search, at random moments; for odd seeds the driver is killed while it is full."""
    chance, ever = random.Random(seed), set[str]()
    with small_disk(tmp_path / "small", 128) as disk:
        if disk is None:
            tally.notes.append("disk full in a search: not injected, mounting a tmpfs needs root")
            return
        search = Search(storage=disk.path / "runs", trials=8, evidence=tmp_path)
        for _ in range(2):
            driver, before = search.start(), len(search.seen())
            search.await_seen(lambda seen, before=before: len(seen) > before, driver)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 3))
            disk.fill()
            time.sleep(8)
            if seed % 2 == 0:
                disk.empty()
                time.sleep(4)
            assert driver.runs or driver.code == 0, f"a full disk ended it: {driver.said}"
            assert "is full" in driver.said or not driver.runs
            driver.kill()
            disk.empty()
            ever |= finished(search)
        end = search.run()
        found = examine(search, ever)
        tally.add("disk full in a search", 2, found, end.code == 0)
        assert end.code == 0, end.said
        assert not found.lines, found.lines


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(3))
def test_nan_loss(seed: int, tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(seed)
    search = Search(storage=tmp_path, trials=TRIALS)
    first, second = (f"{number:05d}" for number in chance.sample(range(TRIALS), 2))
    search.plan(fault("nan", first, chance.randrange(1, 4)), fault("nan", second, chance.randrange(1, 4)))
    driver = search.run()
    failed = [trial for trial in trials_of(search).values() if trial.state == "failed"]
    found = ended(search, driver, len(failed))
    tally.add("NaN loss", len(failed), found)
    assert not found.lines, found.lines
    assert failed, "a trial that was not stopped early diverged"
    assert all("diverged" in trial.reason for trial in failed)


@pytest.mark.long_form
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_out_of_memory(seed: int, times: int, tmp_path: Path, tally: Tally) -> None:
    """Once, the trial goes on with more room; twice, it has failed."""
    search = Search(storage=tmp_path, trials=TRIALS)
    search.plan(fault("out of memory", "00000", random.Random(seed).randrange(1, 4), times))
    driver = search.run()
    fails = times == 2 or os.cpu_count() == 1
    found = ended(search, driver, int(fails))
    tally.add("out of memory", times, found)
    assert not found.lines, found.lines
    assert told(search, "00000").state == ("failed" if fails else "complete")
    assert not fails or "out of memory" in told(search, "00000").reason


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(2))
def test_data_that_cannot_be_read_for_a_while(seed: int, tmp_path: Path, tally: Tally) -> None:
    search = Search(storage=tmp_path, trials=TRIALS)
    search.plan(fault("data", "00000", random.Random(seed).randrange(1, 4), 2))
    driver = search.run()
    found = ended(search, driver)
    tally.add("data that cannot be read for a while", 2, found)
    assert not found.lines, found.lines
    assert told(search, "00000").state == "complete"
    for seconds in (15, 30):
        wait = f"in {seconds} s (data error: the store does not answer)"
        assert f"trial 00000 goes on from its last checkpoint {wait}" in driver.said


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(2))
def test_a_worker_that_hangs(seed: int, tmp_path: Path, tally: Tally) -> None:
    search = Search(storage=tmp_path, trials=TRIALS, options=("--hang-minutes", "0.2"))
    search.plan(fault("hang", "00000", random.Random(seed).randrange(1, 4)))
    driver = search.run()
    found = ended(search, driver)
    tally.add("a worker hangs", 1, found)
    assert not found.lines, found.lines
    assert told(search, "00000").state == "complete"


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(2))
def test_a_space_that_raises_in_trial_7(seed: int, tmp_path: Path, tally: Tally) -> None:
    search = Search(storage=tmp_path, trials=9, space=HERE / "broken_space.py")
    driver = search.run()
    found = ended(search, driver)
    tally.add("the space raises in trial 7", 1, found)
    assert not found.lines, found.lines
    assert "a mistake of the space" in driver.said
    assert "broken_space.py:" in driver.said
    assert "00007" not in trials_of(search)


@pytest.mark.long_form
@pytest.mark.parametrize("signals", ["Ctrl-C", "Ctrl-C twice", "SIGTERM, 10 s"])
@pytest.mark.parametrize("seed", range(5))
def test_signals(seed: int, signals: str, tmp_path: Path, tally: Tally) -> None:
    """Two of them in a search, which then goes on to its end."""
    chance, number = random.Random(seed), signal.SIGTERM if signals.startswith("SIGTERM") else signal.SIGINT
    sent = (number, number) if "twice" in signals else (number,)
    search, ever = Search(storage=tmp_path, trials=10), set[str]()
    for _ in range(2):
        code, seconds = interrupted(search, chance, *sent)
        tally.notes.append(f"{signals}: the driver ended after {seconds:.1f} s with {code}")
        assert code in (128 + number, 0) or (number == signal.SIGTERM and code == -signal.SIGKILL)
        ever |= finished(search)
    end = search.run()
    found = examine(search, ever)
    tally.add(signals, 2, found, end.code == 0)
    assert end.code == 0, end.said
    assert not found.lines, found.lines


@pytest.mark.long_form
def test_ctrl_c_while_it_starts(tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(0)
    search = Search(storage=tmp_path, trials=TRIALS)
    for _ in range(5):
        driver = search.start()
        time.sleep(chance.uniform(0, 15))
        if driver.runs:
            os.killpg(driver.process.pid, signal.SIGINT)
        assert driver.wait() in (130, 0, -signal.SIGINT), driver.said
        assert "Traceback" not in driver.said, driver.said
    end = search.run()
    found = examine(search, set())
    tally.add("Ctrl-C while it starts", 5, found, end.code == 0)
    assert not found.lines, found.lines

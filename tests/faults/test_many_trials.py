"""A search of many simulated trials whose driver is killed time and again: how soon the first trial runs after it."""

import json
import os
import random
import signal
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ledger import Findings, Told, examine_runs, trials_in
from searches import HERE, ROOT, Driver
from simulated import NAME
from tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.long_form]
TRIALS, KILLS, CONCURRENT = 1000, 20, 2
STEPS = ("start", "ray is ready", "study is read", "tune asks", "trial")


def drive(folder: Path) -> Driver:
    command = [sys.executable, str(HERE / "simulated.py"), str(folder), str(TRIALS), str(CONCURRENT)]
    return Driver(command, folder / "driver.log", folder, {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE)))})


def times_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "times.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_a_thousand_trials_killed_twenty_times(tmp_path: Path, tally: Tally) -> None:
    chance, ever = random.Random(0), set[str]()
    wrong: list[str] = []
    again: list[dict[str, Any]] = []  # starts of trials that were finished before
    for _ in range(KILLS):
        driver, before = drive(tmp_path), len(times_of(tmp_path))
        while driver.runs and not any(one["what"] == "trial" for one in times_of(tmp_path)[before:]):
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1.4 * TRIALS * 0.3 / CONCURRENT / KILLS))
        driver.send(signal.SIGKILL)
        driver.kill()
        now = _finished(trials_in(tmp_path, NAME))
        again += [one for one in times_of(tmp_path)[before:] if one["trial"] in ever]
        wrong += [f"trial {one} was finished before a kill" for one in sorted(ever - now)]
        ever |= now
    driver, before = drive(tmp_path), len(times_of(tmp_path))
    driver.wait(3600)
    again += [one for one in times_of(tmp_path)[before:] if one["trial"] in ever]
    told = trials_in(tmp_path, NAME)
    found = _examine(tmp_path, told, ever)
    found.lost += wrong
    found.repeated += [f"trial {one['trial']}" for one in again]
    tally.add(f"driver: SIGKILL in {TRIALS} simulated trials", KILLS, found, driver.code == 0)
    _tell_times(tmp_path, tally)
    assert driver.code == 0, driver.said
    assert not found.lines, found.lines[:20]


def _finished(told: dict[str, Told]) -> set[str]:
    return {trial_id for trial_id, trial in told.items() if trial.state == "complete"}


def _examine(folder: Path, told: dict[str, Told], ever: set[str]) -> Findings:
    found, now = Findings(), _finished(told)
    found.lost += [f"trial {trial_id} was finished before" for trial_id in sorted(ever - now)]
    if len(now) != TRIALS:
        found.lost.append(f"{len(now)} trials finished, not {TRIALS}")
    examine_runs(f"sqlite:///{folder}/mlflow.db", NAME, told, found)
    return found


def _tell_times(folder: Path, tally: Tally) -> None:
    """Where the time goes of all starts, up to the first trial. From Ray being ready on, 10 s are allowed on a machine
    that does nothing else."""
    starts: list[dict[str, float]] = []
    for one in times_of(folder):
        if one["what"] == "start":
            starts.append({})
        starts[-1].setdefault(one["what"], one["time"])
    whole = [start for start in starts if "trial" in start]
    for before, after in pairwise(STEPS):
        median = statistics.median(start[after] - start[before] for start in whole)
        tally.notes.append(
            f"{len(whole)} starts of {TRIALS} simulated trials, {before} to {after}: median {median:.1f} s"
        )
    waits = [start["trial"] - start["ray is ready"] for start in whole]
    told = f"median {statistics.median(waits):.1f} s, most {max(waits):.1f} s, load {os.getloadavg()[0]:.1f}"
    tally.notes.append(f"from Ray being ready to the first trial: {told}")

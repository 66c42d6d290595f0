"""SIGKILL of a trial's actor, of one of its workers, of the raylet it runs on: it ends with the weights of an unbroken
trial, and nothing of it is left in the cluster."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ledger import examine, finished
from nodes import Nodes, raylet_of
from safetensors.torch import load_file
from searches import Search
from tally import Tally

pytestmark = [pytest.mark.slow, pytest.mark.long_form]
CASES = [("actor", 1), ("raylet", 1), ("worker", 2), ("actor", 2), ("raylet", 2)]
SEEDS = 3
KILLED, NEXT = "00000", "00001"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    witness = tmp_path_factory.mktemp("witness")
    with Nodes(witness) as nodes:
        nodes.witness = witness  # type: ignore[attr-defined]
        yield nodes


class ClusterSearch(Search):
    """Its trials are seen by the nodes' witness, each test of which has a file of its own."""

    @property
    def witness(self) -> Path:
        return Path(self.environment["RRD_WITNESS"])


def search_on(nodes: Nodes, storage: Path, workers: int) -> Search:
    witness: Path = nodes.witness  # type: ignore[attr-defined]
    (witness / "witness.jsonl").unlink(missing_ok=True)
    options = ("--address", nodes.address, "--workers-per-trial", str(workers), "--max-concurrent", "1")
    return ClusterSearch(
        storage=storage,
        trials=2,
        options=(*options, "--scheduler", "none", "--epochs", "20"),
        environment={**nodes.environment, "RRD_WITNESS": str(witness)},
    )


@pytest.fixture(scope="module")
def unbroken(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The trials' folder of a search that nothing happened to, by the workers of a trial."""
    folders = {}
    for workers in sorted({workers for _, workers in CASES}):
        search = search_on(nodes, tmp_path_factory.mktemp("unbroken"), workers)
        driver = search.run()
        assert driver.code == 0, driver.said
        folders[workers] = search.folder / "trials"
    return folders


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize(("victim", "workers"), CASES)
def test_killed(
    victim: str, workers: int, seed: int, nodes: Nodes, unbroken: dict[int, Path], tmp_path: Path, tally: Tally
) -> None:
    chance, search = random.Random(seed), search_on(nodes, tmp_path, workers)
    driver, epoch = search.start(), chance.randrange(1, 13)
    search.await_seen(
        lambda seen: any(one["trial"] == KILLED and one["kind"] == "begins" and one["epoch"] >= epoch for one in seen),
        driver,
    )
    time.sleep(chance.uniform(0, 0.3))
    pids = sorted({one["pid"] for one in search.seen() if one["trial"] == KILLED})
    pid = {"worker": chance.choice(pids), "actor": nodes.actor(), "raylet": raylet_of(pids[-1])}[victim]
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    if victim == "raylet":
        nodes.add()
    search.await_seen(lambda seen: any(one["trial"] == NEXT for one in seen), driver)
    leaked = _settles_above(nodes, 1 if workers == 1 else 2)  # Tune's, and Train's where there are workers
    driver.wait()
    found = examine(search, finished(search))
    tally.add(f"SIGKILL of a trial's {victim}, {workers} workers", 1, found, driver.code == 0)
    others = [one["time"] - killed for one in search.seen() if one["time"] > killed and one["pid"] not in pids]
    tally.notes.append(f"{victim} of a trial with {workers} workers: another process trains {min(others):.1f} s later")
    assert driver.code == 0, driver.said
    assert not found.lines, found.lines
    assert leaked == 0, f"{leaked} placement groups more than a trial has"
    assert nodes.groups() == 0
    for trial in (KILLED, NEXT):
        _assert_same(search.folder / "trials" / trial, unbroken[workers] / trial)


def _settles_above(nodes: Nodes, groups: int) -> int:
    """By how many the placement groups stay above what they were."""
    deadline = time.monotonic() + 10
    while (more := nodes.groups() - groups) > 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return max(0, more)


def _assert_same(one: Path, other: Path) -> None:
    for name in ("student.safetensors", "best_student.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), f"{one / name} is another student"

"""MLflow is down, killed, slow, out of disk, or refuses credentials: every metric arrives once after it is back."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger import Findings, Told, examine, examine_runs, finished
from mlflow_server import Gate, Server
from searches import Search
from small_disk import small_disk
from tally import Tally

from rrd_search.record import Recorder

pytestmark = pytest.mark.slow
NAME = "recorded"
ENOUGH_SECONDS = 600.0
LONG_SEEDS = 8
Act = Callable[[], object]


def seeds(count: int = LONG_SEEDS) -> list[object]:
    """The first in both forms, the others in the long one."""
    return [0, *(pytest.param(seed, marks=pytest.mark.long_form) for seed in range(1, count))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    gate = Gate(server.port)
    gate.open()
    yield gate
    gate.shut()


def record(recorder: Recorder, chance: random.Random, *acts: Act) -> dict[str, Told]:
    """What the driver of a search tells the recorder; ``acts`` happen from a random moment of it on, far apart."""
    trials, epochs = 12, 5
    events = trials * (epochs + 2)
    share = events // max(1, len(acts) + 1)
    first = chance.randrange(share)
    waiting = {first + number * share: act for number, act in enumerate(acts)}
    at, told = iter(range(events)), {}

    def next_moment() -> None:
        waiting.get(next(at), lambda: None)()
        time.sleep(0.01)

    recorder.start_search({"epochs": epochs}, {"rrd.trials": str(trials)})
    for number in range(trials):
        trial_id, curve = f"{number:05d}", {}
        recorder.start_trial(trial_id, {"loss.weight": number}, {"rrd.config_hash": "abc"})
        next_moment()
        for epoch in range(1, epochs + 1):
            curve[epoch] = chance.random()
            others = dict.fromkeys(("val_loss", "train_loss", "train_rrd_kl", "images_per_second"), chance.random())
            recorder.epoch(trial_id, epoch, {"val_accuracy": curve[epoch], **others})
            next_moment()
        recorder.end_trial(trial_id, "complete", {"epochs_run": float(epochs)})
        told[trial_id] = Told("complete", curve)
        next_moment()
    recorder.end_search({}, {})
    return told


def after_all_is_sent(recorder: Recorder, act: Act) -> Act:
    """Do it while the recorder is at work, not before it has found the store."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + ENOUGH_SECONDS
        while recorder.unsent() and time.monotonic() < deadline:
            time.sleep(0.05)
        act()

    return wait_and_act


def after_a_failure(recorder: Recorder, act: Act) -> Act:
    """Do it when the recorder has met the fault."""

    def wait_and_act() -> None:
        time.sleep(3)  # it tries after half a second, and again a second later
        assert recorder.unsent(), "the fault did not happen"
        act()

    return wait_and_act


def settle(folder: Path, uri: str, name: str, told: dict[str, Told]) -> Findings:
    """The next start of the search, with MLflow back: what is still wrong then."""
    found = Findings()
    missing = Recorder(folder, uri, name).close(ENOUGH_SECONDS)
    if missing is not None:
        found.missing.append(missing)
    examine_runs(uri, name, told, found)
    return found


@pytest.mark.parametrize("seed", seeds())
def test_never_up(seed: int, gate: Gate, tmp_path: Path, tally: Tally) -> None:
    gate.shut()
    recorder = Recorder(tmp_path, gate.uri, f"{NAME}-never-{seed}")
    told = record(recorder, random.Random(seed))
    said = recorder.close(1)
    assert said is not None
    assert "it does not answer" in said
    gate.open()
    found = settle(tmp_path, gate.uri, f"{NAME}-never-{seed}", told)
    tally.add("MLflow: never up", 1, found)
    assert not found.lines, found.lines


@pytest.mark.parametrize("seed", seeds())
def test_wrong_credentials(seed: int, gate: Gate, tmp_path: Path, tally: Tally) -> None:
    gate.refuses = True
    recorder = Recorder(tmp_path, gate.uri, f"{NAME}-refused-{seed}")
    told = record(recorder, random.Random(seed))
    said = recorder.close(1)
    assert said is not None
    assert "it refuses the credentials" in said
    gate.refuses = False
    found = settle(tmp_path, gate.uri, f"{NAME}-refused-{seed}", told)
    tally.add("MLflow: wrong credentials", 1, found)
    assert not found.lines, found.lines


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(LONG_SEEDS))
def test_killed_and_started_again(seed: int, tmp_path: Path, tally: Tally) -> None:
    server = Server(tmp_path)
    server.start()
    recorder = Recorder(tmp_path / "search", server.uri, NAME)
    told = record(recorder, random.Random(seed), after_all_is_sent(recorder, server.kill))
    assert recorder.unsent(), "it was killed"
    server.start()
    said = recorder.close(ENOUGH_SECONDS)
    found = settle(tmp_path / "search", server.uri, NAME, told)
    found.missing += [said] if said else []
    server.kill()
    tally.add("MLflow: server killed, started again", 1, found)
    assert not found.lines, found.lines


@pytest.mark.long_form
@pytest.mark.parametrize("seed", range(3))
def test_every_call_takes_two_seconds(seed: int, gate: Gate, tmp_path: Path, tally: Tally) -> None:
    gate.delay_seconds = 2.0
    recorder = Recorder(tmp_path, gate.uri, f"{NAME}-slow-{seed}")
    began = time.monotonic()
    told = record(recorder, random.Random(seed))
    tally.notes.append(f"told a slow MLflow's recorder of a search in {time.monotonic() - began:.1f} s")
    said = recorder.close(ENOUGH_SECONDS)
    found = settle(tmp_path, gate.uri, f"{NAME}-slow-{seed}", told)
    found.missing += [said] if said else []
    tally.add("MLflow: every call takes 2 s", 1, found)
    assert not found.lines, found.lines


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("under", ["store", "journal"])
def test_disk_full_under_it(under: str, seed: int, tmp_path: Path, tally: Tally) -> None:
    """The disk of the store, or that of the journal, is full for a while in the middle."""
    with small_disk(tmp_path / "small", 8) as disk:
        if disk is None:
            tally.notes.append(f"disk full under MLflow's {under}: not injected, mounting a tmpfs needs root")
            return
        uri = f"sqlite:///{(disk.path if under == 'store' else tmp_path)}/mlflow.db"
        folder = disk.path if under == "journal" else tmp_path / "search"
        recorder = Recorder(folder, uri, NAME)
        acts = after_all_is_sent(recorder, disk.fill), after_a_failure(recorder, disk.empty)
        told = record(recorder, random.Random(seed), *acts)
        said = recorder.close(ENOUGH_SECONDS)
        found = settle(folder, uri, NAME, told)
        found.missing += [said] if said else []
        tally.add(f"MLflow: disk full under its {under}", 1, found)
        assert not found.lines, found.lines


@pytest.mark.long_form
@pytest.mark.parametrize("outage", ["never up", "killed", "slow", "wrong credentials"])
def test_whole_searches(outage: str, tmp_path: Path, tally: Tally) -> None:
    """What the tests above do, under a real driver; the same command then sends what is missing."""
    server = Server(tmp_path)
    gate = Gate(server.port)
    search = Search(storage=tmp_path / "storage", trials=6, mlflow_uri=gate.uri)
    server.start()
    gate.delay_seconds = 2.0 if outage == "slow" else 0.0
    gate.refuses = outage == "wrong credentials"
    if outage != "never up":
        gate.open()
    driver = search.start()
    if outage == "killed":
        search.await_seen(lambda seen: len(seen) > 5, driver)
        server.kill()
        time.sleep(60)
        server.start()
    driver.wait()
    assert driver.code == 0, driver.said
    ever = finished(search)
    gate.delay_seconds, gate.refuses = 0.0, False
    if outage == "never up":
        gate.open()
    again = search.run()
    found = examine(search, ever)
    gate.shut()
    server.kill()
    tally.add(f"MLflow: {outage}, a whole search", 1, found, again.code == 0)
    assert not found.lines, found.lines

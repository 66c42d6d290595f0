"""The recorder against a real MLflow: SQLite, and a server on loopback behind a door that the tests open and close."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from safetensors.torch import save_file

from rrd_search.champion import Champion, log_champion
from rrd_search.journal import Journal
from rrd_search.record import Recorder
from rrd_search.tracking import check_tracking_uri, quiet_client

ENOUGH_SECONDS = 90


class Door:
    """A TCP relay to a server, with a port of its own; closed, it refuses connections like a server that is down.

    ``lose`` holds parts of requests: the first request with each of them reaches the server, and its answer is lost.
    """

    def __init__(self, server_port: int):
        self.lose: list[bytes] = []
        self._server_port = server_port
        self._reserved = socket.create_server(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        self._reserved.close()
        self._listener: socket.socket | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._relay, args=(source, target, source is client), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        lost = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._listener is None:
                    break
                target.sendall(data)
                if is_request and any(part in data for part in self.lose):
                    self.lose, lost = [part for part in self.lose if part not in data], True
                    time.sleep(0.5)  # the server does what it was asked
                    break
        for end in (source, target) if lost or self._listener is None else (target,):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """The port of an MLflow server with its own store."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(empty_store, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command + store,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the MLflow server did not start")


@pytest.fixture
def door(server: int) -> Iterator[Door]:
    door = Door(server)
    door.open()
    yield door
    with contextlib.suppress(AssertionError):
        door.close()


@pytest.fixture
def sqlite_uri(tmp_path: Path, empty_store: Path) -> str:
    (tmp_path / "storage").mkdir()
    shutil.copy(empty_store, tmp_path / "storage")
    return f"sqlite:///{tmp_path}/storage/mlflow.db"


def record_search(recorder: Recorder, trials: int = 2, epochs: int = 3) -> None:
    recorder.start_search({"data.name": "digits", "epochs": epochs}, {"rrd.trials": str(trials)})
    for number in range(trials):
        record_trial(recorder, f"trial_{number}", epochs)
    recorder.end_search({"best_val_accuracy": 0.9}, {"rrd.best_trial": "trial_0"})


def record_trial(recorder: Recorder, trial_id: str, epochs: int, state: str = "complete") -> None:
    recorder.start_trial(trial_id, {"loss.student_temperature": 0.04}, {"rrd.config_hash": "abc"})
    for epoch in range(1, epochs + 1):
        recorder.epoch(trial_id, epoch, {"val_accuracy": epoch / 10, "train_loss": 1 / epoch})
    recorder.end_trial(trial_id, state, {"final_val_accuracy": epochs / 10, "epochs_run": epochs})


def runs_of(client: MlflowClient, search: str) -> list[Run]:
    experiment = client.get_experiment_by_name(search)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))


def curve(client: MlflowClient, run: Run, metric: str = "val_accuracy") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]


def assert_recorded(uri: str, search: str, trials: int = 2, epochs: int = 3) -> dict[str, Run]:
    """The parent and each trial are there once, ended, with whole curves; returns the runs by name."""
    client = quiet_client(uri)
    runs = runs_of(client, search)
    by_name = {run.info.run_name: run for run in runs}
    assert sorted(by_name) == sorted([search, *(f"trial_{number}" for number in range(trials))])
    assert len(runs) == trials + 1
    parent = by_name[search]
    assert parent.data.tags["rrd.search"] == search
    for run in runs:
        assert run.info.status == "FINISHED"
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert curve(client, run) == [(epoch, epoch / 10) for epoch in range(1, epochs + 1)]
            assert curve(client, run, "final_val_accuracy") == [(epochs, epochs / 10)]
    return by_name


def test_a_search_in_sqlite(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "in_sqlite")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    assert recorder.unsent() == 0
    runs = assert_recorded(sqlite_uri, "in_sqlite")
    assert runs["in_sqlite"].data.params == {"data.name": "digits", "epochs": "3"}
    assert runs["in_sqlite"].data.tags["rrd.best_trial"] == "trial_0"
    trial = runs["trial_1"].data
    assert trial.params == {"loss.student_temperature": "0.04"}
    assert (trial.tags["rrd.trial_id"], trial.tags["rrd.state"]) == ("trial_1", "complete")
    assert trial.tags["rrd.config_hash"] == "abc"
    assert runs["trial_1"].info.artifact_uri.startswith(f"{tmp_path}/storage/mlartifacts/in_sqlite/")
    assert runs["trial_1"].info.end_time >= runs["trial_1"].info.start_time


@pytest.mark.slow
def test_a_search_on_a_server_as_its_rest_api_shows_it(tmp_path: Path, door: Door) -> None:
    recorder = Recorder(tmp_path, door.uri, "on_a_server")
    record_search(recorder)
    recorder.start_trial("stopped", {}, {})
    recorder.end_trial("stopped", "pruned", {})
    recorder.start_trial("broken", {}, {})
    recorder.epoch("broken", 1, {"val_loss": math.nan, "train_loss": math.inf})
    recorder.end_trial("broken", "failed", {}, {"rrd.error": "out of memory"})
    assert recorder.close(ENOUGH_SECONDS) is None
    runs = {run["info"]["run_name"]: run for run in rest_runs(door.uri, "on_a_server")}
    assert len(runs) == 5
    parent, trial = runs["on_a_server"], _flat(runs["trial_0"])
    assert trial["tags"]["mlflow.parentRunId"] == parent["info"]["run_id"]
    assert trial["tags"]["rrd.state"] == "complete"
    assert trial["params"] == {"loss.student_temperature": "0.04"}
    assert trial["metrics"]["val_accuracy"] == (0.3, 3)
    assert trial["metrics"]["final_val_accuracy"] == (0.3, 3)
    states = {
        name: (runs[name]["info"]["status"], _flat(runs[name])["tags"]["rrd.state"])
        for name in runs
        if name != "on_a_server"
    }
    assert states["stopped"] == ("FINISHED", "pruned")
    assert states["broken"] == ("FAILED", "failed")
    assert math.isnan(float(_flat(runs["broken"])["metrics"]["val_loss"][0]))
    assert float(_flat(runs["broken"])["metrics"]["train_loss"][0]) > 1e300


def rest_runs(uri: str, search: str) -> list[dict[str, Any]]:
    found = _ask(f"{uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name={search}")
    experiment_id = found["experiment"]["experiment_id"]
    runs: list[dict[str, Any]] = _ask(f"{uri}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment_id]})["runs"]
    return runs


def _ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as answer:
        content: dict[str, Any] = json.loads(answer.read())
    return content


def _flat(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    data = run["data"]
    return {
        "tags": {tag["key"]: tag["value"] for tag in data["tags"]},
        "params": {param["key"]: param["value"] for param in data.get("params", [])},
        "metrics": {metric["key"]: (metric["value"], metric["step"]) for metric in data.get("metrics", [])},
    }


@pytest.mark.parametrize("acknowledged", ["nothing", "half", "another server", "not a number", "beyond the end"])
def test_a_restart_sends_what_may_be_missing_and_doubles_nothing(
    tmp_path: Path, sqlite_uri: str, acknowledged: str
) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "restarted")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    offset = tmp_path / "s" / "record.offset"
    saved = json.loads(offset.read_text())
    lines = (tmp_path / "s" / "record.jsonl").read_bytes().splitlines(keepends=True)
    half = len(b"".join(lines[: len(lines) // 2]))
    older = {
        "nothing": {**saved, "offset": 0},
        "half": {**saved, "offset": half},
        "another server": {**saved, "server": "0" * 16},
        "not a number": {**saved, "offset": None},
        "beyond the end": {**saved, "offset": 10**6},
    }
    offset.write_text(json.dumps(older[acknowledged]))
    again = Recorder(tmp_path / "s", sqlite_uri, "restarted")
    assert again.unsent() == len(lines) - (len(lines) // 2 if acknowledged == "half" else 0)
    assert again.close(ENOUGH_SECONDS) is None
    assert_recorded(sqlite_uri, "restarted")


def test_a_driver_that_tells_everything_again_doubles_nothing(tmp_path: Path, sqlite_uri: str) -> None:
    for _ in range(2):
        recorder = Recorder(tmp_path / "s", sqlite_uri, "told_twice")
        record_search(recorder)
        assert recorder.close(ENOUGH_SECONDS) is None
    assert_recorded(sqlite_uri, "told_twice")


def test_a_search_is_extended_in_its_own_run(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "extended")
    record_search(recorder, trials=1)
    assert recorder.close(ENOUGH_SECONDS) is None
    recorder = Recorder(tmp_path / "s", sqlite_uri, "extended")
    recorder.start_search({"data.name": "stl10", "epochs": 3}, {"rrd.trials": "2"})
    record_trial(recorder, "trial_1", 3)
    recorder.end_search({"best_val_accuracy": 0.95}, {})
    assert recorder.close(ENOUGH_SECONDS) is None
    parent = assert_recorded(sqlite_uri, "extended")["extended"].data
    assert parent.params["data.name"] == "digits"  # MLflow's params never change
    assert parent.tags["rrd.changed.data.name"] == "stl10"
    assert parent.tags["rrd.trials"] == "2"
    assert parent.metrics["best_val_accuracy"] == 0.95


def test_a_failed_trial_that_runs_again_keeps_its_run(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "again")
    recorder.start_search({}, {})
    record_trial(recorder, "trial_0", 2, "failed")
    record_trial(recorder, "trial_0", 3)  # epochs 1 and 2 once more
    recorder.end_search({}, {})
    assert recorder.close(ENOUGH_SECONDS) is None
    client = quiet_client(sqlite_uri)
    (trial,) = [run for run in runs_of(client, "again") if run.info.run_name == "trial_0"]
    assert (trial.info.status, trial.data.tags["rrd.state"]) == ("FINISHED", "complete")
    assert curve(client, trial) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_with_the_server_down_nothing_raises_and_the_next_start_sends_all(tmp_path: Path, door: Door) -> None:
    door.close()
    recorder = Recorder(tmp_path, door.uri, "down_at_first")
    record_search(recorder)
    assert recorder.unsent() == 12
    missing = recorder.close(2)
    assert missing is not None
    assert missing.count("\n") == 0
    assert "has not taken 12 of 12 recorded events (it does not answer)" in missing
    assert "sent when this search is started again" in missing
    door.open()
    assert Recorder(tmp_path, door.uri, "down_at_first").close(ENOUGH_SECONDS) is None
    assert_recorded(door.uri, "down_at_first")


def test_a_server_that_goes_away_in_between_misses_nothing(tmp_path: Path, door: Door) -> None:
    recorder = Recorder(tmp_path, door.uri, "away")
    recorder.start_search({}, {})
    record_trial(recorder, "trial_0", 3)
    _until(lambda: recorder.unsent() == 0)
    door.close()
    record_trial(recorder, "trial_1", 3)
    _until(lambda: recorder._reason != "")
    door.open()
    recorder.end_search({}, {})
    assert recorder.close(ENOUGH_SECONDS) is None
    assert_recorded(door.uri, "away")


def test_lost_answers_double_nothing(tmp_path: Path, door: Door) -> None:
    door.lose = [b"experiments/create", b"runs/create", b"runs/log-batch", b"runs/update"]
    recorder = Recorder(tmp_path, door.uri, "lost_answers")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    assert door.lose == [], "these requests were never seen"
    assert_recorded(door.uri, "lost_answers")


def test_runs_that_were_created_twice_become_one(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "twice")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    client = quiet_client(sqlite_uri)
    for run in runs_of(client, "twice"):  # as a late creation would: earlier in the order, and empty
        client.create_run(run.info.experiment_id, 1, run.data.tags, run.info.run_name)
    recorder = Recorder(tmp_path / "s", sqlite_uri, "twice")
    record_trial(recorder, "trial_2", 3)
    assert recorder.close(ENOUGH_SECONDS) is None
    assert_recorded(sqlite_uri, "twice", trials=3)


def test_another_store_gets_everything(tmp_path: Path, sqlite_uri: str, empty_store: Path) -> None:
    for uri in (sqlite_uri, f"sqlite:///{empty_store.parent}/mlflow.db", sqlite_uri):
        recorder = Recorder(tmp_path / "s", uri, "moved")
        record_search(recorder)
        assert recorder.close(ENOUGH_SECONDS) is None
        assert_recorded(uri, "moved")


@pytest.mark.slow
def test_a_lost_store_is_filled_again_in_silence(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "lost")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    shutil.rmtree(tmp_path / "storage")
    code = (
        "import sys; from pathlib import Path; from rrd_search.record import Recorder\n"
        "recorder = Recorder(Path(sys.argv[1]), sys.argv[2], 'lost')\n"
        "recorder.end_search({}, {'rrd.note': 'new'})\n"
        "print(recorder.close(90))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s"), sqlite_uri]  # MLflow remembers the stores of a process
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "storage"]
    shutil.copytree(tmp_path / "storage", tmp_path / "copy")
    assert_recorded(f"sqlite:///{tmp_path}/copy/mlflow.db", "lost")


def test_a_deleted_run_stays_deleted(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "deleted")
    recorder.start_search({}, {})
    for number in range(2):
        recorder.start_trial(f"trial_{number}", {}, {})
    _until(lambda: recorder.unsent() == 0)
    client = quiet_client(sqlite_uri)
    (unwanted,) = [run for run in runs_of(client, "deleted") if run.info.run_name == "trial_0"]
    client.delete_run(unwanted.info.run_id)
    for number in range(2):
        record_trial(recorder, f"trial_{number}", 3)
    assert recorder.close(ENOUGH_SECONDS) is None
    everything = client.search_runs([unwanted.info.experiment_id], run_view_type=ViewType.ALL)
    assert sorted(run.info.run_name for run in everything) == ["deleted", "trial_0", "trial_1"]
    (kept,) = [run for run in everything if run.info.run_name == "trial_1"]
    assert curve(client, kept) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_what_mlflow_refuses_is_named_and_stops_nothing_else(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "refused")
    recorder.start_search({}, {})
    recorder.start_trial("trial_0", {"long": "x" * 9000}, {})
    recorder.epoch("trial_0", 1, {"no good name!": 1.0, "val_accuracy": 0.1})
    said = recorder.close(ENOUGH_SECONDS)
    assert said is not None
    assert said.startswith("MLflow refused 1 values, the first being no good name!: ")
    client = quiet_client(sqlite_uri)
    (trial,) = [run for run in runs_of(client, "refused") if run.info.run_name == "trial_0"]
    assert curve(client, trial) == [(1, 0.1)]
    assert trial.data.params == {"long": "x" * 6000}


def test_an_epoch_that_is_trained_again_after_the_drivers_disk_was_lost_counts_once(
    tmp_path: Path, sqlite_uri: str
) -> None:
    for machine, epochs in (("one", (1, 2, 3)), ("other", (3, 4))):
        recorder = Recorder(tmp_path / machine, sqlite_uri, "moved")
        recorder.start_search({}, {})
        recorder.start_trial("00000", {}, {})
        for epoch in epochs:
            recorder.epoch("00000", epoch, {"val_accuracy": epoch / 10})
        assert recorder.close(ENOUGH_SECONDS) is None
        time.sleep(0.01)  # or both would have ended in the same millisecond
    client = quiet_client(sqlite_uri)
    (trial,) = [run for run in runs_of(client, "moved") if run.info.run_name == "00000"]
    assert curve(client, trial) == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_torn_and_damaged_lines(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", "http://127.0.0.1:9", "torn")
    record_search(recorder)
    recorder.close(0)
    journal = tmp_path / "s" / "record.jsonl"
    with open(journal, "ab") as file:
        file.write(b'{"kind":"epoch","tri')  # a driver that was killed
    recorder = Recorder(tmp_path / "s", sqlite_uri, "torn")
    recorder.epoch("trial_1", 4, {"val_accuracy": 0.4})
    assert recorder.close(ENOUGH_SECONDS) is None
    client = quiet_client(sqlite_uri)
    (trial,) = [run for run in runs_of(client, "torn") if run.info.run_name == "trial_1"]
    assert [step for step, _ in curve(client, trial)] == [1, 2, 3, 4]
    journal.write_bytes(journal.read_bytes() + b'\x00\xff"\r{\n')
    said = Recorder(tmp_path / "s", sqlite_uri, "torn").close(ENOUGH_SECONDS)
    assert said == f"1 damaged lines of {journal} were left out"


def test_a_line_of_which_a_bit_was_flipped_is_left_out(tmp_path: Path, sqlite_uri: str) -> None:
    recorder = Recorder(tmp_path / "s", "http://127.0.0.1:9", "flipped")
    record_search(recorder)
    recorder.close(0)
    file = tmp_path / "s" / "record.jsonl"
    lines, chance = file.read_bytes().splitlines(keepends=True), random.Random(0)
    whole = list(Journal(tmp_path / "s", server="").events())
    assert len(whole) == len(lines)
    for number, line in enumerate(lines):
        bit = chance.randrange(8 * (len(line) - 1))
        damaged = bytearray(line)
        damaged[bit // 8] ^= 1 << bit % 8
        if b"\n" in damaged[:-1]:
            continue
        file.write_bytes(b"".join([*lines[:number], bytes(damaged), *lines[number + 1 :]]))
        assert list(Journal(tmp_path / "s", server="").events()) == [*whole[:number], *whole[number + 1 :]]
    said = Recorder(tmp_path / "s", sqlite_uri, "flipped").close(ENOUGH_SECONDS)
    assert said == f"1 damaged lines of {file} were left out"


def test_a_full_disk_raises_nothing_and_is_told(tmp_path: Path, sqlite_uri: str, monkeypatch: Any) -> None:
    recorder = Recorder(tmp_path / "s", sqlite_uri, "full")
    recorder.start_search({}, {})
    write = os.write

    def full(file: int, data: bytes) -> int:
        return write(file, data[: len(data) // 2])  # as a disk does that becomes full

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        record_trial(recorder, "trial_0", 3)
        assert recorder.unsent() >= 5
        missing = recorder._missing()
    assert missing is not None
    assert "5 of them are lost, because" in missing
    assert "No space left on device" in missing
    recorder.end_search({}, {})  # there is room again
    assert recorder.close(ENOUGH_SECONDS) is None
    assert_recorded(sqlite_uri, "full", trials=1)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("file:///tmp/mlruns", "is a folder"),
        ("mlruns", "is a folder"),
        ("/tmp/mlruns", "is a folder"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("localhost:5000", "unknown scheme 'localhost'"),
        ("http://", "names no host"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("", "is a folder"),
    ],
)
def test_what_is_no_store(tmp_path: Path, uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        Recorder(tmp_path, uri, "nowhere")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uri", ["sqlite:///a.db", "sqlite:////tmp/a.db", "http://host:5000", "https://me:word@host/x"])
def test_what_is_a_store(uri: str) -> None:
    check_tracking_uri(uri)


class TinyStudent(torch.nn.Module):
    """uint8 images [B, 3, 16, 16] -> logits [B, 10]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.classifier = torch.nn.Linear(4, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.norm(self.convolution(images.float() / 255)))
        logits: torch.Tensor = self.classifier(maps.mean((2, 3)))
        return logits


def champion_of(folder: Path, seed: int) -> Champion:
    student = TinyStudent(seed).train()
    files = folder / f"best_{seed}"
    files.mkdir()
    save_file(student.state_dict(), files / "student.safetensors")
    (files / "config.yaml").write_text("student: tiny\n")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    return Champion(trial_id=f"trial_{seed}", model=student, input_example=images, files=files, name="crowned")


@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_the_champion_loads_for_any_batch_and_is_logged_once(
    tmp_path: Path, sqlite_uri: str, door: Door, store: str, monkeypatch: Any
) -> None:
    uri = sqlite_uri if store == "sqlite" else door.uri
    recorder = Recorder(tmp_path / "s", uri, "crowned")
    record_search(recorder)
    assert recorder.close(ENOUGH_SECONDS) is None
    first, second = (champion_of(tmp_path, seed) for seed in range(2))
    assert log_champion(uri, "crowned", first) == "models:/crowned/1"
    assert log_champion(uri, "crowned", first) == "models:/crowned/1"
    assert log_champion(uri, "crowned", second) == "models:/crowned/2"
    client = quiet_client(uri)
    experiment = client.get_experiment_by_name("crowned")
    assert experiment is not None
    assert len(client.search_logged_models([experiment.experiment_id])) == 2
    assert not mlflow.is_tracking_uri_set(), "the tracking URI of the process is the user's"
    assert second.model.training, "the caller's module stays as it is"

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pytorch.load_model("models:/crowned@champion")
    mlflow.set_tracking_uri("")
    student = second.model.eval()
    for size in (1, 2, 7):
        images = torch.randint(0, 256, (size, 3, 16, 16), dtype=torch.uint8)
        torch.testing.assert_close(loaded(images), student(images))
    (parent,) = [run for run in runs_of(client, "crowned") if run.info.run_name == "crowned"]
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "champion")} == {
        "champion/config.yaml",
        "champion/student.safetensors",
    }
    downloaded = client.download_artifacts(parent.info.run_id, "champion/student.safetensors", str(tmp_path))
    assert Path(downloaded).read_bytes() == (second.files / "student.safetensors").read_bytes()
    assert parent.data.tags["rrd.champion_trial_id"] == "trial_1"


def test_a_champion_that_mlflow_does_not_take_is_one_line(tmp_path: Path, door: Door) -> None:
    door.close()
    with pytest.raises(RuntimeError, match="did not take the champion: it does not answer"):
        log_champion(door.uri, "crowned", champion_of(tmp_path, 0))


def _until(condition: Any) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)

"""Tiny searches as a user starts them: a driver in a process group of its own, with the real Ray, study and MLflow, and
a witness in each of its processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPACE = HERE / "tiny_space.py"
ROOT = HERE.parent.parent
WAIT_SECONDS = 900  # for what takes seconds on a machine that does nothing else
GONE_SECONDS = 60  # for what trains, after its driver
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's, which do nothing by themselves
AGENT_SECONDS = 180  # Ray gives them a minute
MARK = "RRD_SEARCH_UNDER_TEST"


@dataclass(kw_only=True)
class Search:
    """A search in ``storage``. ``start`` it as often as it takes; ``faults`` are what the witness does to it."""

    storage: Path
    trials: int = 20
    options: tuple[str, ...] = ()
    mlflow_uri: str | None = None
    space: Path = SPACE
    environment: dict[str, str] = field(default_factory=dict)
    name: str = "tiny"
    evidence: Path | None = None  # where its log and what the witness writes lie; default: in the storage

    def __post_init__(self) -> None:
        self.witness.mkdir(parents=True, exist_ok=True)
        self.log = (self.evidence or self.storage) / "driver.log"

    @property
    def folder(self) -> Path:
        return self.storage / self.name

    @property
    def witness(self) -> Path:
        return (self.evidence or self.storage) / "witness"

    @property
    def uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.storage}/mlflow.db"

    def plan(self, *faults: dict[str, Any]) -> None:
        """What the witness is to do from the next start on."""
        for happened in self.witness.glob("fault.*"):
            happened.unlink()
        (self.witness / "faults.json").write_text(json.dumps(faults))

    def start(self, *more: str) -> "Driver":
        command = [sys.executable, "-m", "rrd_search.tune", str(self.space), "--name", self.name]
        command += ["--storage", str(self.storage), "--trials", str(self.trials), *self.options, *more]
        if self.mlflow_uri is not None:
            command += ["--mlflow-uri", self.mlflow_uri]
        return Driver(command, self.log, self.witness, self.environment)

    def run(self, *more: str) -> "Driver":
        """Start, and wait for the end."""
        driver = self.start(*more)
        driver.wait()
        return driver

    def seen(self) -> list[dict[str, Any]]:
        """What the witness wrote, in order."""
        file = self.witness / "witness.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def await_seen(self, enough: Callable[[list[dict[str, Any]]], bool], driver: "Driver") -> bool:
        """Wait until the witness has written that; False where the driver ended before."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not enough(self.seen()):
            if not driver.runs:
                return enough(self.seen())
            assert time.monotonic() < deadline, f"nothing came of it: {driver.said}"
            time.sleep(0.05)
        return True


class Driver:
    """One process of a search, started; what it printed is in ``said``."""

    def __init__(self, command: list[str], log: Path, witness: Path, environment: dict[str, str]) -> None:
        self._mark = uuid.uuid4().hex
        own = {"RRD_WITNESS": str(witness), MARK: self._mark, "COLUMNS": "150", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join(str(folder) for folder in (HERE / "witness", HERE, ROOT))
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={**os.environ, "PYTHONPATH": path, **own, **environment},
                start_new_session=True,
            )
        self.started = time.monotonic()

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> int:
        code = self.process.poll()
        assert code is not None, "it still runs"
        return code

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Its exit code, once it and all that it started have ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"the driver did not end within {seconds:g} s: {self.said}") from None
        self.await_gone()
        return self.code

    def kill(self) -> None:
        """SIGKILL, to the driver alone; what it started must end by itself, agents of Ray's later than the rest."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_SECONDS)
        self.await_gone(besides=AGENTS)

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def processes(self) -> dict[int, str]:
        """The command lines of all processes that it started, which live, by their ids; the driver's own left out."""
        return {pid: command for pid, command in marked(self._mark).items() if pid != self.process.pid}

    def await_gone(self, besides: tuple[str, ...] = ()) -> None:
        """Nothing that a driver started outlives it for long."""
        deadline = time.monotonic() + (GONE_SECONDS if besides else AGENT_SECONDS)
        while left := [command for command in self.processes().values() if not command.startswith(besides or "-")]:
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"{len(left)} processes outlived their driver: {sorted(left)[:5]}")
            time.sleep(0.2)

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        for pid in [self.process.pid, *self.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def marked(mark: str) -> dict[int, str]:
    """The command lines of all processes that were given the mark, by their ids."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if command:  # a zombie has none
                        found[int(folder.name)] = command
    return found

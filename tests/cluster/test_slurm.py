"""cluster/slurm.sh is run, with programs of the test in place of Slurm, Ray, MLflow and the search."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Slurm's nodes run Linux")
ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parent / "slurm_stubs"
LIMIT_SECONDS = 20.0
HERE = "0.0.0.0"  # where a connection reaches this machine, though it is not written as loopback
WAITING = "slurm.sh: Ray runs on n1, waiting for the other nodes"
ARGUMENTS = ["rrd", "--name", "two words", ""]


class Job:
    """A batch job on the nodes n1, n2 ..., of which n1 runs the script."""

    def __init__(self, folder: Path):
        self.submitted, self.record = folder / "a folder", folder / "record"
        self.id = _free_job_id()
        self.port = _port_of(self.id)
        self.nodes = 3
        self.environment = {"TEST_SEARCH": "ends 0", "TEST_RAY": "", "TEST_ADDRESSES": f"169.254.3.4 {HERE} 192.0.2.9"}
        activate = self.submitted / ".venv/bin/activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f"PATH={STUBS}:$PATH\n")
        (self.record / "joined").mkdir(parents=True)
        self._process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **environment: str) -> None:
        nodes = [f"n{number + 1}" for number in range(self.nodes)]
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.record),
            "SLURM_SUBMIT_DIR": str(self.submitted),
            "SLURM_JOB_ID": str(self.id),
            "SLURM_JOB_NUM_NODES": str(self.nodes),
            "SLURM_CPUS_PER_TASK": "32",
            "SLURMD_NODENAME": "n1",
            "TEST_RECORD": str(self.record),
            "TEST_NODES": " ".join(nodes),
            "TEST_PYTHON": sys.executable,
        }
        self._process = subprocess.Popen(
            ["bash", str(ROOT / "cluster/slurm.sh"), *arguments],
            env=given | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def term(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said. Nothing of it may be left."""
        assert self._process is not None
        said, _ = self._process.communicate(timeout=LIMIT_SECONDS)
        assert not _processes_of(self._process.pid)
        assert not [*self.submitted.glob(".rrd_search-*")], "the token is left"
        assert not self.scratch(), "what Ray and MLflow wrote is left"
        return self._process.returncode, said

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        self.start(*arguments, **environment)
        return self.end()

    def kill(self) -> None:
        for pid in _processes_of(self._process.pid) if self._process else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for folder in self.scratch():
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self) -> list[Path]:
        return [*Path("/tmp").glob(f"rrd-{self.id}.*")]

    def recorded(self, name: str) -> list[str]:
        file = self.record / name
        return file.read_text().splitlines() if file.exists() else []

    def await_recorded(self, name: str) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        while not (self.record / name).exists():
            assert time.monotonic() < end, f"no {name}"
            time.sleep(0.02)


def _port_of(job_id: int) -> int:
    return 20000 + job_id % 5000 * 2


def _free_job_id() -> int:
    """One whose port nobody listens on."""
    while True:
        job_id = random.randrange(10**6, 10**7)
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", _port_of(job_id))):
                return job_id


def _processes_of(session: int) -> list[int]:
    """Of a session, which all that the script starts stays in."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.kill()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job on three nodes that has ended well."""
    job = Job(tmp_path_factory.mktemp("job"))
    try:
        code, said = job.run(*ARGUMENTS, RRD_STORAGE="s3://bucket/x")
        assert code == 0, said
        assert said.splitlines() == [
            f"MLflow: ssh -L 5000:127.0.0.1:{job.port + 1} first.example.org, and while that is open: "
            "http://127.0.0.1:5000",
            WAITING,
        ]
        yield job
    finally:
        job.kill()


def test_ray_on_all_nodes(ended: Job) -> None:
    head = ended.recorded("ray-n1")
    folder = head.pop(next(place for place, option in enumerate(head) if option.startswith("--temp-dir=")))
    assert re.fullmatch(rf"--temp-dir=/tmp/rrd-{ended.id}\.\w+/ray", folder)
    token = head[-1].removeprefix("token: token ")
    assert token.startswith(f"{ended.submitted}/.rrd_search-{ended.id}.")
    each = ["--num-cpus=32", "--object-store-memory=200000000", "--block", f"token: token {token}"]
    address = ["--head", f"--node-ip-address={HERE}", f"--port={ended.port}", "--dashboard-host=127.0.0.1"]
    assert head == ["start", *address, *each]
    assert ended.recorded("ray-n2") == ["start", f"--address={HERE}:{ended.port}", *each]
    assert ended.recorded("ray-n3") == ended.recorded("ray-n2")


def test_steps_of_slurm(ended: Job) -> None:
    assert ended.recorded("srun") == [
        "mkdir --nodes=3 --ntasks=3",
        "ray --nodes=1 --ntasks=1 --cpus-per-task=32 --nodelist=n1",
        "ray --nodes=2 --ntasks=2 --exclude=n1 --cpus-per-task=32",
        "rm --nodes=3 --ntasks=3 --overlap",
    ]


def test_the_search_starts_when_all_nodes_are_there(ended: Job) -> None:
    assert ended.recorded("nodes") == ["n1", "n2", "n3"]
    assert ended.recorded("arguments") == ARGUMENTS
    assert ended.recorded("modes") == ["600", "700"]
    assert ended.recorded("token-bytes") == ["64"]
    assert {
        f"RAY_ADDRESS={HERE}:{ended.port}",
        f"MLFLOW_TRACKING_URI=http://127.0.0.1:{ended.port + 1}",
        "RRD_STORAGE=s3://bucket/x",
        "RAY_AUTH_MODE=token",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
    } <= {*ended.recorded("environment")}


def test_mlflow_on_loopback(ended: Job) -> None:
    said = " ".join(ended.recorded("mlflow"))
    assert re.fullmatch(
        rf"server --host 127\.0\.0\.1 --port {ended.port + 1} --workers 2 "
        rf"--backend-store-uri sqlite:////tmp/rrd-{ended.id}\.\w+/mlflow\.db "
        r"--artifacts-destination s3://bucket/x/mlartifacts",
        said,
    ), said


def test_one_node(job: Job) -> None:
    job.nodes = 1
    code, said = job.run()
    assert code == 0, said
    assert [line.split()[0] for line in job.recorded("srun")] == ["mkdir", "ray", "rm"]
    assert "waiting" not in said


def test_nodes_that_never_join(job: Job) -> None:
    code, said = job.run(TEST_RAY="alone", RRD_START_SECONDS="1")
    assert code == 0, said
    assert said.splitlines()[1:] == [
        WAITING,
        "slurm.sh: 1 of 3 nodes are there after 1 seconds, the search begins on these",
    ]
    assert job.recorded("nodes") == ["n1"]


@pytest.mark.parametrize(("search", "expected"), [("ends 2", 2), ("ends 143", 143), ("killed", 143)])
def test_the_exit_code_is_the_searchs(job: Job, search: str, expected: int) -> None:
    job.nodes = 1
    code, said = job.run(TEST_SEARCH=search)
    assert code == expected, said


@pytest.mark.parametrize("expected", [0, 143])
def test_term_is_passed_on_once(job: Job, expected: int) -> None:
    job.nodes = 1
    job.start(TEST_SEARCH=f"stops {expected}")
    job.await_recorded("nodes")
    job.term()
    job.await_recorded("signals")
    job.term()
    code, said = job.end()
    assert code == expected, said
    assert job.recorded("signals") == ["TERM"]


@pytest.mark.parametrize(("ray", "moment", "more"), [("mute", "ray-n1", []), ("alone", "ray-n3", [WAITING])])
def test_term_before_the_search(job: Job, ray: str, moment: str, more: list[str]) -> None:
    job.start(TEST_RAY=ray)
    job.await_recorded(moment)
    job.term()
    code, said = job.end()
    assert code == 143, said
    assert said.splitlines()[1:] == more
    assert not job.recorded("arguments")


@pytest.mark.parametrize(("ray", "patience"), [("mute", 1), ("dies", 300)])
def test_ray_does_not_start(job: Job, ray: str, patience: int) -> None:
    code, said = job.run(TEST_RAY=ray, RRD_START_SECONDS=str(patience))
    assert code == 1
    assert said.splitlines()[1:] == [f"slurm.sh: Ray did not start on n1 within {patience} seconds"]


def test_no_address(job: Job) -> None:
    code, said = job.run(TEST_ADDRESSES="169.254.3.4 fd00::2", SLURMD_NODENAME="")
    assert code == 1
    expected = "slurm.sh: first.example.org has no IPv4 address but loopback, so that no other node could join"
    assert said.splitlines() == [expected]


def test_outside_of_a_job(job: Job) -> None:
    job.start(SLURM_SUBMIT_DIR="")
    code, said = job.end()
    assert code == 1
    assert said.endswith("this is a batch script: sbatch cluster/slurm.sh SPACE --name NAME ...\n")

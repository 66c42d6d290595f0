"""This machine's own Ray starts in a process of its own, ends when it is told to, and never outlives its driver."""

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import soon

from rrd_search.cluster import Cluster
from rrd_search.own_ray import AGAIN, FAILED, STARTS, OwnRay, keep

A_DRIVER = """
import os, signal
from rrd_search.own_ray import OwnRay
own = OwnRay()
print(own._process.pid, {}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

A_SEARCH = """
import sys
import ray
from rrd_search.cluster import Cluster
with Cluster(None) as cluster:
    cluster.join()
    print(ray.get(ray.remote(lambda: "trainables.trial" in sys.modules).remote()))
"""


def members(session: int) -> list[str]:
    """The command lines of the living processes of a session, which for Ray's are often titles of their own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, *_, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_machine_too_busy_for_ray_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        starts.append(1)
        raise Exception("The current node timed out during startup. This could happen.\nAnd so on.")

    starts: list[int] = []
    said: list[str] = []
    monkeypatch.setattr("ray.init", late)
    keep(said.append, threading.Event())
    assert len(starts) == STARTS
    assert said == [AGAIN, f"{FAILED} The current node timed out during startup. This could happen."]


def test_what_its_process_says_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    says = f"print('{AGAIN}'); print('{FAILED} no room')"
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started([sys.executable, "-c", says], **how))
    own = OwnRay()
    with pytest.raises(OSError, match=r"^Ray did not start \(no room\); the same command tries again$"):
        own.address()
    assert caplog.messages == ["Ray did not start in its half a minute: once more ..."]
    own.close()
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started([sys.executable, "-c", ""], **how))
    own = OwnRay()
    with pytest.raises(OSError, match="its process died"):
        own.address()
    own.close()
    breaks = [sys.executable, "-c", "import there_is_no_such_module"]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: started(breaks, **how))
    own = OwnRay()
    with pytest.raises(OSError, match="No module named 'there_is_no_such_module'"):
        own.address()
    own.close()


@pytest.mark.slow
def test_it_is_gone_when_it_is_closed() -> None:
    own = OwnRay()
    assert ":" in own.address()
    commands = members(own._process.pid)
    assert any("raylet" in command for command in commands)
    assert not [command for command in commands if "monitor" in command or "dashboard.py" in command]
    own.end()
    own.close()
    assert soon(lambda: not members(own._process.pid), seconds=20)


@pytest.mark.slow
def test_its_processes_have_imported_what_trials_need() -> None:
    """Ray passes over what it does not find, without a word."""
    search = subprocess.run([sys.executable, "-c", A_SEARCH], capture_output=True, text=True)
    assert search.stdout == "True\n", search.stderr


@pytest.mark.slow
@pytest.mark.parametrize("at", ["gcs_server", "ray::DashboardAgent"])
def test_one_that_is_left_in_its_start_leaves_nothing(at: str) -> None:
    with Cluster(None) as cluster:
        assert cluster._own is not None
        session = cluster._own._process.pid
        assert soon(lambda: any(at in command for command in members(session)), seconds=20)
    assert soon(lambda: not members(session), seconds=20)


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False], ids=["ready", "starting"])
def test_it_dies_with_its_driver(waits: bool) -> None:
    program = A_DRIVER.format("own.address()" if waits else "''")
    driver = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert driver.stdout, driver.stderr
    assert soon(lambda: not members(int(driver.stdout.split()[0])), seconds=20)

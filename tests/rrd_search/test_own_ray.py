"""This machine's own Ray starts in a process of its own, ends when it is told to, and never outlives its driver."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rrd_search.cluster import Cluster
from rrd_search.own_ray import AGAIN, FAILED, STARTS, OwnRay, keep

MARK = "RRD_OWN_RAY_TEST"
A_DRIVER = """
import os, signal
from rrd_search.own_ray import OwnRay
own = OwnRay()
print(own.address(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def marked(mark: str) -> list[str]:
    """The command lines of all processes that have it in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


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
def test_it_is_gone_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, mark := f"closed {os.getpid()}")
    own = OwnRay()
    assert ":" in own.address()
    assert any("raylet" in command for command in marked(mark))
    own.end()
    own.close()
    assert wait_for(lambda: not marked(mark))


@pytest.mark.slow
@pytest.mark.parametrize("at", ["gcs_server", "DashboardAgent"])
def test_one_that_is_left_in_its_start_leaves_nothing(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, mark := f"{at} {os.getpid()}")
    with Cluster(None):
        assert wait_for(lambda: any(at in command for command in marked(mark)))
    assert wait_for(lambda: not marked(mark))


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False], ids=["ready", "starting"])
def test_it_dies_with_its_driver(waits: bool) -> None:
    environment = {**os.environ, MARK: (mark := f"driver {waits} {os.getpid()}")}
    program = A_DRIVER if waits else A_DRIVER.replace("own.address()", "own")
    driver = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert driver.stdout, driver.stderr
    assert wait_for(lambda: not marked(mark))

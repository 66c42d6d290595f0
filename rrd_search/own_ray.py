"""This machine's own Ray, in a process of its own: it starts while the driver does what comes before the trials.

``python -m rrd_search.own_ray`` is that process. Line by line it says how far Ray is; it ends Ray when it is told to,
and at once when its driver is gone, so that trials which that ran are gone before the next one's.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private import node, ray_constants

QUIETLY: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}  # of ``ray.init``
STARTS = 2  # at most: the half a minute that Ray gives itself is too short on a busy machine
OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange next to nothing through it
END_SECONDS = 20.0  # in which a Ray that is told to end has ended
CORES = os.cpu_count() or 1
SETTINGS: dict[str, Any] = {
    # Processes start ahead, one for each core. They import all that trials need while the driver looks at data, teacher
    # and study: a few hundred MiB each, so that a large machine starts with fewer.
    "preload_python_modules": ["trainables.trial"],
    "worker_maximum_startup_concurrency": min(CORES, max(16, CORES // 2)),
    # They wait minutes for trials (Ray's own second is over too early), and none for ever. Where a teacher is trained
    # for longer, trials start as if there had been none.
    "idle_worker_killing_time_threshold_ms": 300_000,
    "num_workers_soft_limit": 0,
}
NOTHING_LISTENS = b"127.0.0.1:1"
READY, AGAIN, FAILED = "ready", "again", "failed"  # what the process says; where it is ready, and why it failed
END = "end\n"  # what it is told
_LOG = logging.getLogger(__name__)


class OwnRay:
    """Starts as soon as it is made; must be closed."""

    def __init__(self) -> None:
        self._ends = False
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed with the rest
        # A session of its own: Ctrl-C and what else the driver's group is sent is for the driver, which asks trials to
        # leave; Ray must live until they have.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rrd_search.own_ray"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            start_new_session=True,
        )

    def address(self) -> str:
        """HOST:PORT, as soon as it is there. OSError where it does not start."""
        assert self._process.stdout is not None, "it was started with a pipe"
        why = ""
        for line in self._process.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind == READY:
                _close_token()
                return text
            if kind == AGAIN:
                _LOG.warning("Ray did not start in its half a minute: once more ...")
            else:
                why = text
        raise no_start(why or self._last_words())

    def end(self) -> None:
        """Tell it to end. It takes two seconds, for which ``close`` waits."""
        assert self._process.stdin is not None, "it was started with a pipe"
        self._ends = True
        with contextlib.suppress(BrokenPipeError):  # it is gone
            self._process.stdin.write(END)
            self._process.stdin.flush()

    def close(self) -> None:
        """It is gone. One that was not told to end is ended at once, wherever it is in its start."""
        if not self._has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _close_token()
        self._words.close()

    def _has_ended(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._ends and self._process.wait(END_SECONDS) == 0
        return False

    def _last_words(self) -> str:
        self._words.seek(0)
        said = self._words.read().strip().splitlines()
        return said[-1][:150] if said else "its process died"


def keep(say: Callable[[str], None], told: threading.Event) -> None:
    """Start Ray, and keep it until this process is ``told`` to end."""
    try:
        _start(say)
    except Exception as error:  # of no class
        say(f"{FAILED} {first_line(error)}")
        return
    say(f"{READY} {ray.get_runtime_context().gcs_address}")
    told.wait()
    ray.shutdown()


def no_start(why: str) -> OSError:
    return OSError(f"Ray did not start ({why}); the same command tries again")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]


class _Lean(node.Node):
    """Ray starts its processes one after the other, and waits for each. A machine's own needs none of these; without
    them its start takes two thirds of the time, and of the processor's."""

    def start_monitor(self) -> None:
        """The autoscaler: there are no other nodes."""

    def start_log_monitor(self) -> None:
        """Who sends workers' logs to the driver, which wants none; they are in files all the same."""

    def start_api_server(self, **how: Any) -> None:
        """The dashboard's, which without a dashboard refuses all that Ray's other processes ask of it. They look for
        its address until they find one: here is one where nothing listens."""
        key, space = ray_constants.DASHBOARD_ADDRESS, ray_constants.KV_NAMESPACE_DASHBOARD
        self.get_gcs_client().internal_kv_put(key.encode(), NOTHING_LISTENS, True, space)


def _start(say: Callable[[str], None]) -> None:
    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=CORES,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _system_config=SETTINGS,
                **QUIETLY,
            )
            return
        except Exception:  # of no class
            if not left:
                raise
            say(AGAIN)


def _listen(told: threading.Event) -> None:
    """To the driver. Where it is gone, this process and all of Ray's are, too."""
    if sys.stdin.readline() != END:
        os.killpg(0, signal.SIGKILL)
    told.set()


def _close_token() -> None:
    """Ray makes it readable for everybody, and `ray up` later takes the same one for a cluster."""
    with contextlib.suppress(OSError):  # there is none, where the environment has it
        Path("~/.ray/auth_token").expanduser().chmod(0o600)


def main() -> None:
    node.Node = _Lean  # type: ignore[misc]  # which ``ray.init`` makes
    told = threading.Event()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    keep(lambda line: print(line, flush=True), told)


if __name__ == "__main__":
    main()

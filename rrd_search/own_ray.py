"""This machine's own Ray, in a process of its own: it starts while the driver does what comes before the trials.

``python -m rrd_search.own_ray`` is that process. Line by line it says how far Ray is; it ends Ray when it is told to,
and at once when its driver is gone.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STARTS = 2  # at most: the half a minute that Ray gives itself is too short on a busy machine
OBJECT_STORE_BYTES = 200 * 2**20  # trials exchange next to nothing through it
END_SECONDS = 20.0  # in which a Ray that is told to end has ended
READY, AGAIN, FAILED = "ready", "again", "failed"  # what the process says, each with a word or a line
END = "end\n"  # what it is told
_LOG = logging.getLogger(__name__)


class OwnRay:
    """Starts as soon as it is made; must be closed."""

    def __init__(self) -> None:
        self._ends = False
        # A session of its own: Ctrl-C and what else the driver's group is sent is for the driver, which asks trials to
        # leave; Ray must live until they have.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rrd_search.own_ray"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def address(self) -> str:
        """HOST:PORT, as soon as it is there. OSError where it does not start."""
        why = "its process died"
        assert self._process.stdout is not None, "it was started with a pipe"
        for line in self._process.stdout:
            kind, _, text = line.strip().partition(" ")
            if kind == READY:
                return text
            if kind == AGAIN:
                _LOG.warning("Ray did not start in its half a minute: once more ...")
            else:
                why = text
        raise OSError(f"Ray did not start ({why}); the same command tries again")

    def end(self) -> None:
        """Tell it to end. It takes two seconds, for which ``close`` waits."""
        assert self._process.stdin is not None, "it was started with a pipe"
        self._ends = True
        with contextlib.suppress(BrokenPipeError):  # it is gone
            self._process.stdin.write(END)
            self._process.stdin.flush()

    def close(self) -> None:
        """It is gone. One that was not told to end is ended at once, wherever it is in its start."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS if self._ends else 0)
        self._process.kill()
        self._process.wait()


def keep(say: Callable[[str], None]) -> None:
    """Start Ray, and keep it until this process is told to end or its driver is gone."""
    import ray

    try:
        _start(say)
    except Exception as error:  # of no class
        say(f"{FAILED} {first_line(error)}")
        return
    _close_token()
    say(f"{READY} {ray.get_runtime_context().gcs_address}")
    if sys.stdin.readline() != END:  # the driver is gone, and trials that it ran are to be gone before the next one's
        os.kill(os.getpid(), signal.SIGKILL)
    ray.shutdown()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]


def _start(say: Callable[[str], None]) -> None:
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception:  # of no class
            if not left:
                raise
            say(AGAIN)


def _close_token() -> None:
    """Ray makes it readable for everybody, and `ray up` later takes the same one for a cluster."""
    with contextlib.suppress(OSError):  # there is none, where the environment has it
        Path("~/.ray/auth_token").expanduser().chmod(0o600)


if __name__ == "__main__":
    keep(lambda line: print(line, flush=True))

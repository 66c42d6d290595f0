"""Hosts made of Linux namespaces on one switch: each with its own address, disk, processes and sshd.

    with Hosts(first_boot=["echo once"]) as hosts:
        host = hosts.add(10)
        hosts.laptop.run(f"ssh {host.address} hostname")
        host.power_off()

Nothing of it exists outside of the namespaces but a folder in /tmp, so any number of them stand side by side with the
same addresses; when this process ends, in whatever way, so do they. There is no way from them to any other network.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from machine import NAMESPACES, closed, hidden, program_path

INIT = Path(__file__).parent / "host_init.py"
NETWORK, LAPTOP = "10.77.0", 9  # the numbers of hosts are the last parts of their addresses
NUMBERS = range(4, 60)
USER, UID = "rrd", 4242
KEY = "id_rrd"  # in ~/.ssh of the laptop; all hosts let it in
SHARED = "/mnt/rrd_search"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROCESSES = "exec ps -eo pid=,args="


class CommandFailed(AssertionError):
    """A command in a host, with its exit code and all that it printed."""


class Hosts:
    """The switch and the laptop are there on entry; ``add`` makes a host, and everything is gone on exit.

    ``first_boot``: shell commands that the user of each new host runs before anyone gets in. ``mounts``: folders of the
    machine, by their place in each host, that all of them may write to. ``disk_bytes``: what may be written to a host's
    disk; ``memory_bytes``: to its /dev/shm. Keys in ``authorized`` open hosts that boot later.
    """

    def __init__(
        self,
        *,
        user: str = USER,
        first_boot: Sequence[str] = (),
        mounts: Mapping[str, Path] | None = None,
        disk_bytes: int = 2 * 2**30,
        memory_bytes: int = 512 * 2**20,
    ) -> None:
        self.user, self.first_boot, self.mounts = user, list(first_boot), dict(mounts or {})
        self.disk_bytes, self.memory_bytes = disk_bytes, memory_bytes
        self.authorized: list[str] = []
        self._made: dict[int, Host] = {}

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="rrd-hosts-"))
        self.folder.chmod(0o755)
        (self.folder / "shared").mkdir()
        own = "mount -t tmpfs -o mode=755 shared shared && ip link add br0 type bridge && ip link set br0 up"
        self.switch = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-ec", f"{own} && echo ready && exec cat"],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self.switch.stdout is not None
            assert self.switch.stdout.readline() == b"ready\n", "the switch did not come up"
            key = self.folder / KEY
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            self.authorized.append(key.with_suffix(".pub").read_text())
            self.laptop = self.add(LAPTOP)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __getitem__(self, number: int) -> "Host":
        return self._made[number]

    def add(self, number: int) -> "Host":
        """A new host, booted, with the address 10.77.0.NUMBER."""
        assert number in NUMBERS, f"no host can have the number {number}"
        assert number not in self._made, f"host {number} exists"
        self._made[number] = Host(self, number)
        self._made[number].boot()
        return self._made[number]

    def remove(self, number: int) -> None:
        """Power it off for good."""
        self._made.pop(number).power_off()

    def on_switch(self, *command: str) -> None:
        """Run a command where the ports of the switch are."""
        there = ["nsenter", f"--target={self.switch.pid}", "--mount", "--net", *command]
        done = subprocess.run(there, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def _end(self) -> None:
        for host in self._made.values():
            host.power_off()
        assert self.switch.stdin is not None
        self.switch.stdin.close()
        self.switch.wait()
        shutil.rmtree(self.folder)


class Host:
    """One host; ``Hosts.add`` makes it. ``environment`` is that of all commands that are run in it."""

    def __init__(self, hosts: Hosts, number: int) -> None:
        self.hosts, self.number = hosts, number
        self.name, self.address = _name(number), f"{NETWORK}.{number}"
        self.home = Path("/home", hosts.user)
        self.environment = {"HOME": str(self.home), "USER": hosts.user, "LOGNAME": hosts.user, "SHELL": "/bin/bash"}
        self.environment |= {"PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb"}
        self._boots = 0
        self._process: subprocess.Popen | None = None

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def boot(self) -> None:
        """With an empty disk: what an earlier boot wrote is gone."""
        assert not self.is_on, f"{self.name} is on"
        self._boots += 1
        folder = self.hosts.folder / f"{self.name}.{self._boots}"
        for part in ("disk", "root"):
            (folder / part).mkdir(parents=True)
        own = ["nsenter", f"--mount=/proc/{self.hosts.switch.pid}/ns/mnt", "unshare", *NAMESPACES, "--fork"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*own, "--kill-child", sys.executable, "-I", str(INIT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then end the hosts
            )
        try:
            self._init = int(self._line(folder))
            self._plug()
            self._send(json.dumps(self._plan(folder)))
            assert self._line(folder) == "ready", f"{self.name} did not come up"
        except BaseException:
            self._process.kill()
            self._forget()
            raise

    def power_off(self) -> None:
        """At once: no process of it does or sends anything more."""
        if self._process is None:
            return
        with contextlib.suppress(AssertionError):  # it never was on the network
            self.cut()
        os.kill(self._init, signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        """The process that has started it ends with it."""
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._process = None

    def cut(self) -> None:
        """Unplug its network cable."""
        self.hosts.on_switch("ip", "link", "set", self._port, "down")

    def mend(self) -> None:
        """Plug it in again."""
        self.hosts.on_switch("ip", "link", "set", self._port, "up")

    def run(self, command: str, *, seconds: float = 60, root: bool = False) -> str:
        """What a shell command printed. ``CommandFailed`` where its exit code is not 0, or after ``seconds``."""
        limited = ["timeout", "--kill-after=5", f"{seconds:g}", "bash", "-c", command]
        done = subprocess.run(
            self._there(limited, root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + 30,
        )
        if done.returncode != 0:
            raise CommandFailed(f"{self.name}: {command}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout

    def start(self, command: str, log: Path) -> subprocess.Popen:
        """A shell command that goes on by itself; what it prints is in ``log``, a file of the machine. To end it is to
        end what it runs, with ``run``, or the host."""
        with log.open("wb") as output:
            return subprocess.Popen(
                self._there(["bash", "-c", command], root=False),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> dict[int, str]:
        """The command lines of all that runs on it, by process id as the host counts."""
        told = self.run(PROCESSES, root=True).splitlines()
        lines = [line.strip().split(maxsplit=1) for line in told if not line.endswith(PROCESSES)]
        return {int(pid): command for pid, command in lines}

    def write(self, path: str, content: str) -> None:
        """A file of the user's; ``path`` is below the home folder."""
        self.run(f"mkdir -p {shlex.quote(str(Path(path).parent))}")
        command = self._there(["bash", "-c", f"cat > {shlex.quote(path)}"], root=False)
        subprocess.run(command, input=content, text=True, check=True)

    @property
    def _port(self) -> str:
        return f"p{self.number}.{self._boots}"

    def _there(self, command: Sequence[str], root: bool) -> list[str]:
        assert self.is_on, f"{self.name} is off"
        who = [] if root else [f"--setuid={UID}", f"--setgid={UID}"]
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["env", "--ignore-environment", f"--chdir={self.home}", *settings]
        return ["nsenter", f"--target={self._init}", *NAMESPACES, *who, *inside, *command]

    def _plug(self) -> None:
        """Wire it to the switch, with the same network card at every boot."""
        peer = ("peer", "name", "eth0", "address", f"02:00:00:00:00:{self.number:02x}", "netns", str(self._init))
        self.hosts.on_switch("ip", "link", "add", self._port, "type", "veth", *peer)
        self.hosts.on_switch("ip", "link", "set", self._port, "master", "br0", "up")

    def _send(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def _line(self, folder: Path) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        assert line, f"{self.name} did not boot: {(folder / 'log').read_text()}"
        return line

    def _plan(self, folder: Path) -> dict[str, Any]:
        """What ``host_init.py`` has to know."""
        key = self.hosts.folder / KEY
        return {
            "name": self.name,
            "address": self.address,
            "names": {_name(number): f"{NETWORK}.{number}" for number in NUMBERS},
            "folder": str(folder),
            "disk_bytes": self.hosts.disk_bytes,
            "memory_bytes": self.hosts.memory_bytes,
            "mounts": {SHARED: str(self.hosts.folder / "shared")}
            | {at: str(of) for at, of in self.hosts.mounts.items()},
            "visible": hidden(),
            "ways": closed(),
            "user": self.hosts.user,
            "uid": UID,
            "python": os.path.realpath(sys.executable),
            "authorized": self.hosts.authorized,
            "keys": {KEY: key.read_text()} if self.number == LAPTOP else {},
            "sshd": program_path("sshd"),
            "first_boot": self.hosts.first_boot,
        }


def _name(number: int) -> str:
    return "laptop" if number == LAPTOP else f"h{number}"


def await_true(what: str, holds: Any, seconds: float, pause: float = 0.2) -> float:
    """Wait until ``holds()``, an AssertionError after ``seconds``; how many it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
    return time.monotonic() - started

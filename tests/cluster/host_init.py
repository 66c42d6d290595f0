"""Process 1 of a host that is made of Linux namespaces; hosts.py starts it in fresh ones, and sends it a plan.

It puts the host's file system together, joins the network, starts sshd and waits. When its standard input is closed, it
ends, and the kernel ends all else that runs on the host.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
SSHD = """\
ListenAddress {address}
HostKey /run/sshd/host_key
PidFile none
UsePAM no
PermitRootLogin no
PasswordAuthentication no
MaxStartups 100
"""


def main() -> None:
    print(os.readlink("/proc/self"), flush=True)  # as the machine counts: its /proc is still here
    plan = json.loads(sys.stdin.readline())  # sent once the cable is plugged in
    join_network(plan["address"])
    folder = Path(plan["folder"])
    root = make_root(folder, plan)
    enter(root)
    os.environ.update(HOME="/root", PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LANG="C.UTF-8")
    settle(plan)
    signal.signal(signal.SIGCHLD, reap)
    with open("/var/log/sshd.log", "wb") as log:
        subprocess.Popen([plan["sshd"], "-D", "-e", "-f", "/run/sshd/config"], stdin=subprocess.DEVNULL, stderr=log)
    print("ready", flush=True)
    while os.read(0, 1):
        pass


def join_network(address: str) -> None:
    for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
        call("ip", *command.split())
    for family in ("-4", "-6"):
        ways = subprocess.run(["ip", family, "route", "show", "default"], capture_output=True, text=True, check=True)
        assert not ways.stdout.strip(), f"this host has a way out: {ways.stdout}"


def make_root(folder: Path, plan: dict[str, Any]) -> Path:
    """The machine's own files, under a disk of this host's that takes all that is written."""
    disk, root = folder / "disk", folder / "root"
    mount("-t", "tmpfs", "-o", f"size={plan['disk_bytes']},mode=755", "disk", disk)
    for part in ("upper", "work"):
        (disk / part).mkdir()
    layers = f"lowerdir=/,upperdir={disk / 'upper'},workdir={disk / 'work'}"
    mount("-t", "overlay", "-o", layers, "root", root)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    mount("-t", "tmpfs", "-o", f"size={plan['disk_bytes']},mode=1777", "tmp", root / "tmp")
    mount("-t", "tmpfs", "-o", "mode=755", "run", root / "run")
    make_devices(root / "dev", plan["memory_bytes"])
    for visible in plan["visible"]:  # what the layers do not show
        (root / visible[1:]).mkdir(parents=True, exist_ok=True)
        mount("--bind", "-o", "ro", visible, root / visible[1:])
    for way in plan["ways"]:  # to the interpreter, say, below the home folder of root
        (root / way[1:]).chmod((root / way[1:]).stat().st_mode | 0o1)
    for place, source in plan["mounts"].items():
        (root / place[1:]).mkdir(parents=True, exist_ok=True)
        mount("--bind", source, root / place[1:])
    return root


def make_devices(dev: Path, memory_bytes: int) -> None:
    mount("-t", "tmpfs", "-o", "mode=755", "dev", dev)
    for name in DEVICES:
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", dev / name)
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=666,mode=620", "devpts", dev / "pts")
    mount("-t", "tmpfs", "-o", f"size={memory_bytes},mode=1777", "shm", dev / "shm")


def enter(root: Path) -> None:
    """Make it the only file system that is left."""
    os.chdir(root)
    Path("old").mkdir()
    call("pivot_root", ".", "old")
    os.chroot(".")
    os.chdir("/")
    call("umount", "--lazy", "/old")
    Path("/old").rmdir()


def settle(plan: dict[str, Any]) -> None:
    """Give the host its name, its user and the keys of those who may come in."""
    call("hostname", plan["name"])
    names = "".join(f"{address} {name}\n" for name, address in plan["names"].items())
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    python = Path("/usr/local/bin/python3")  # no link: an interpreter looks for its library where it seems to lie
    python.unlink(missing_ok=True)
    python.write_text(f'#!/bin/sh\nexec {plan["python"]} "$@"\n')
    python.chmod(0o755)
    user, uid = plan["user"], str(plan["uid"])
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)  # of the machine
        call("userdel", "--force", "--remove", user)
    call("useradd", "--uid", uid, "--create-home", "--shell", "/bin/bash", "--password", "*", user)
    for place in plan["mounts"]:
        shutil.chown(place, plan["uid"])
    ssh = Path("/home", user, ".ssh")
    ssh.mkdir(mode=0o700)
    (ssh / "authorized_keys").write_text("".join(plan["authorized"]))
    for name, key in plan["keys"].items():
        (ssh / name).touch(mode=0o600)
        (ssh / name).write_text(key)
    for path in (ssh, *ssh.iterdir()):
        shutil.chown(path, plan["uid"], pwd.getpwnam(user).pw_gid)
    Path("/run/sshd").mkdir(mode=0o755)
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/sshd/host_key")
    Path("/run/sshd/config").write_text(SSHD.format(address=plan["address"]))
    for command in plan["first_boot"]:
        as_user(user, command)


def as_user(user: str, command: str) -> None:
    """In a login shell of the user's."""
    known = pwd.getpwnam(user)
    done = subprocess.run(
        ["bash", "--login", "-c", command],
        user=known.pw_uid,
        group=known.pw_gid,
        extra_groups=[],
        cwd=known.pw_dir,
        env={"HOME": known.pw_dir, "USER": user, "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def reap(*_: Any) -> None:
    """Orphans of the host end up here."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def mount(*arguments: str | Path) -> None:
    call("mount", *arguments)


def call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"


if __name__ == "__main__":
    main()

"""What this machine must offer for hosts to be made of its namespaces, and what of it they show."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OWN = ("dev", "run", "tmp")  # folders of the root that are file systems of each host's
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "rsync", "tmux", "make")
PACKAGES = "iproute2 openssh-server openssh-client rsync tmux make"
TRIAL = """\
mkdir disk root
mount -t tmpfs disk disk
mkdir disk/upper disk/work
mount -t overlay -o lowerdir=/,upperdir=disk/upper,workdir=disk/work root root
"""


class CannotHost(Exception):
    """This machine does not offer what hosts are made of."""


class NotInstalled(CannotHost):
    """It does, but for programs."""


def check_machine() -> None:
    """``CannotHost`` says why there can be no hosts here."""
    if os.geteuid() != 0:
        raise CannotHost("hosts are made of namespaces, which takes root")
    with tempfile.TemporaryDirectory(prefix="rrd-trial-") as folder:
        command = ["unshare", *NAMESPACES, "--fork", "sh", "-ec", TRIAL]
        tried = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if tried.returncode != 0:
        raise CannotHost(f"no namespaces or overlays here: {tried.stderr.strip()}")
    if missing := [program for program in PROGRAMS if program_path(program) is None]:
        raise NotInstalled(f"not installed: {', '.join(missing)} (apt-get install {PACKAGES})")


def program_path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def hidden() -> list[str]:
    """What a host works with that is on another file system than the machine's root, or where it has one of its own."""
    root = Path("/").stat().st_dev
    return [str(one) for one in _needed() if one.stat().st_dev != root or one.parts[1] in OWN]


def closed() -> list[str]:
    """The folders above what a host works with that only some may enter."""
    root = Path("/").stat().st_dev
    above = {way for needed in _needed() for way in needed.resolve().parents if way.stat().st_dev == root}
    return [str(way) for way in sorted(above) if not way.stat().st_mode & 0o1]


def _needed() -> list[Path]:
    """The project and its interpreter."""
    return sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix)})

"""What this machine must offer for hosts to be made of its namespaces."""

import os
import shutil
import subprocess
import tempfile

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

"""The laptop that a user types on: the commands that the README gives, for a cluster of hosts made here."""

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hosts import KEY, NETWORK, PATH, Host, Hosts
from machine import ROOT

FILE = "on_prem.yaml"  # in the home folder
HEAD = 10
SHIPPED = ROOT / "cluster" / FILE
EXEC_SECONDS = 300
QUIET = {"PYTHONWARNINGS": "ignore", "RAY_UP_enable_autoscaler_v2": "0", "RAY_AUTH_MODE": "token"}


def cluster_hosts() -> Hosts:
    """Hosts on which the project can be installed without internet."""
    return Hosts(first_boot=[f"python3 {ROOT}/tests/cluster/installed.py {sys.prefix}"])


class Laptop:
    """With the file of a cluster on ``hosts``, of which ``HEAD`` is the head and ``workers`` the others."""

    def __init__(self, hosts: Hosts, workers: Sequence[int]) -> None:
        self.hosts, self.host = hosts, hosts.laptop
        self.host.environment |= QUIET
        self.host.environment["PATH"] = f"{sys.prefix}/bin:{PATH}"
        self.edit(workers)

    @property
    def head(self) -> Host:
        return self.hosts[HEAD]

    def edit(self, workers: Sequence[int]) -> None:
        """Write the shipped file with these hosts in it."""
        self.workers = list(workers)
        self.host.write(FILE, for_hosts(SHIPPED.read_text(), self.hosts.user, self.workers))

    def ray(self, command: str, seconds: float = EXEC_SECONDS) -> str:
        """A command of Ray's, typed where the project is checked out."""
        return self.host.run(f"cd {ROOT} && ray {command}", seconds=seconds)

    def exec(self, command: str, options: str = "") -> str:
        """What a command on the head printed, and what Ray said of it."""
        return self.ray(f"exec ~/{FILE} {options} '{command}'")

    def python_on_head(self, program: Path, *arguments: str) -> Any:
        """What a program of this folder prints as JSON, run in the head's environment."""
        told = self.head.run(f"source ~/.rrd_search && python {program} {' '.join(arguments)}", seconds=EXEC_SECONDS)
        return json.loads(told.splitlines()[-1])


def for_hosts(shipped: str, user: str, workers: Sequence[int]) -> str:
    """The shipped file with the addresses, user and key of hosts that are made here. Tells all that it changes, and
    nothing else is changed."""
    own = yaml.safe_load(shipped)
    head, others = own["provider"]["head_ip"], ", ".join(own["provider"]["worker_ips"])
    addresses = [f"{NETWORK}.{number}" for number in workers]
    changes = {
        head: f"{NETWORK}.{HEAD}",
        others: ", ".join(addresses),
        f"ssh_user: {own['auth']['ssh_user']}": f"ssh_user: {user}",
        own["auth"]["ssh_private_key"]: f"~/.ssh/{KEY}",
    }
    edited = shipped
    for old, new in changes.items():
        assert old in edited, f"{SHIPPED} has no {old}"
        edited = edited.replace(old, new)
    print("".join(difflib.unified_diff(shipped.splitlines(True), edited.splitlines(True), "shipped", "edited", n=0)))
    expected = json.loads(json.dumps(own).replace(head, f"{NETWORK}.{HEAD}"))
    expected["provider"]["worker_ips"] = addresses
    expected["auth"] |= {"ssh_user": user, "ssh_private_key": f"~/.ssh/{KEY}"}
    assert yaml.safe_load(edited) == expected, "more was changed than addresses, user and key"
    return edited

"""Who listens on a host, as ss tells it."""

import re
from dataclasses import dataclass

from hosts import Host

LINE = re.compile(r"LISTEN +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) .*?pid=(?P<pid>\d+)")
LOOPBACK = ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]")
RAY = re.compile(r"ray::|.*-packages/ray/|.* -m ray\.|.*python -m rrd_search\.tune")  # a driver, too


@dataclass(frozen=True)
class Listener:
    address: str
    port: int
    command: str

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        return self.address not in LOOPBACK

    @property
    def is_expected(self) -> bool:
        """One of Ray's own, or sshd."""
        return RAY.match(self.command) is not None or (self.port == 22 and self.command.startswith("sshd:"))


def listeners(host: Host) -> list[Listener]:
    lines = host.run("ss -tlnp", root=True).splitlines()
    commands = host.processes()
    found = [match for line in lines if (match := LINE.match(line))]
    return [Listener(one["address"], int(one["port"]), commands.get(int(one["pid"]), "ended")) for one in found]


def check_closed(host: Host) -> None:
    """Its secrets are the user's alone, and nothing but sshd and Ray is open to the network."""
    assert host.run("stat -c %a ~/.ray/auth_token ~/.rrd_search").split() == ["600", "600"]
    wrong = [one for one in listeners(host) if one.is_open and not one.is_expected]
    assert not wrong, f"{host.name}: {wrong}"

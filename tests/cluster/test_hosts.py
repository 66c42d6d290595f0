"""The hosts that the tests of clusters stand on: apart from each other and from the machine, and gone afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import hosts as module
import machine
import pytest
from hosts import INIT, NETWORK, SHARED, CommandFailed, Host, Hosts, await_true
from machine import CannotHost, NotInstalled, check_machine

pytestmark = pytest.mark.usefixtures("hosting")
SSH = "ssh -i ~/.ssh/id_rrd -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o LogLevel=ERROR"
PATIENCE = 30.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def hosts(hosting: None) -> Iterator[Hosts]:
    with Hosts(first_boot=["hostname > booted_as"]) as hosts:
        for number in (10, 11):
            hosts.add(number)
        yield hosts


def reaches(host: Host, other: Host) -> bool:
    try:
        return host.run(f"{SSH} {other.address} hostname") == f"{other.name}\n"
    except CommandFailed:
        return False


def test_a_host_has_its_own_name_address_disk_processes_and_user(hosts: Hosts) -> None:
    host, other = hosts[10], hosts[11]
    assert host.run("hostname; id -un; pwd; cat booted_as") == "h10\nrrd\n/home/rrd\nh10\n"
    assert f"{host.address}/24" in host.run("ip -brief address")
    for folder in ("/home/rrd", "/tmp", "/var/tmp", "/dev/shm"):
        host.run(f"touch {folder}/mine")
        with pytest.raises(CommandFailed):
            other.run(f"ls {folder}/mine")
        assert not Path(folder, "mine").exists()
    host.start("exec sleep 1234", hosts.folder / "sleep.log")
    await_true("a process", lambda: "sleep 1234" in host.run("ps ax"), PATIENCE)
    assert "sleep 1234" not in other.run("ps ax")
    host.run("touch ~/.ssh/x /mnt/rrd_search/x")
    with pytest.raises(CommandFailed, match="Permission denied"):
        host.run("touch /etc/x")


def test_hosts_reach_each_other_and_nothing_else(hosts: Hosts) -> None:
    laptop = hosts.laptop
    assert laptop.run(f"{SSH} h10 hostname") == "h10\n"
    assert laptop.run(f"{SSH} -tt h11 tty").startswith("/dev/pts/")
    for host in (laptop, hosts[10], hosts[11]):
        for family in ("-4", "-6"):
            assert host.run(f"ip {family} route show default", root=True) == ""
        with pytest.raises(CommandFailed, match="unreachable"):
            host.run("timeout 5 bash -c '< /dev/tcp/192.0.2.1/80'")
    assert NETWORK not in subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout


def test_a_host_with_a_way_out_is_refused() -> None:
    way_out = "ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip route add default dev eth0"
    program = (
        f"import sys; sys.path.insert(0, {str(INIT.parent)!r}); import host_init; host_init.join_network('10.77.0.10')"
    )
    command = ["unshare", "--net", "sh", "-ec", f'{way_out} && exec "$@"', "sh", sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "this host has a way out: default dev eth0" in ended.stderr


def test_the_shared_folder_is_one_for_all_and_outlives_a_host(hosts: Hosts) -> None:
    hosts[10].run(f"echo kept > {SHARED}/file")
    assert hosts[11].run(f"cat {SHARED}/file") == "kept\n"
    hosts[10].power_off()
    hosts[10].boot()
    assert hosts[10].run(f"cat {SHARED}/file") == "kept\n"


def test_a_cut_cable_and_a_mended_one(hosts: Hosts) -> None:
    assert reaches(hosts[11], hosts.laptop) is False  # nobody but the laptop has a key
    assert reaches(hosts.laptop, hosts[11])
    hosts[11].cut()
    assert not reaches(hosts.laptop, hosts[11])
    hosts[11].mend()
    await_true("the network is back", lambda: reaches(hosts.laptop, hosts[11]), 20)


def test_power_off_ends_all_without_a_word_and_the_next_disk_is_empty(hosts: Hosts) -> None:
    host = hosts.add(12)
    host.run("touch left")
    log = hosts.folder / "held.log"
    held = hosts.laptop.start(f"{SSH} h12 'echo in; sleep 1000'", log)
    await_true("a connection", lambda: log.read_text() == "in\n", PATIENCE)
    host.power_off()
    assert not host.is_on
    with pytest.raises(AssertionError, match="h12 is off"):
        host.run("true")
    time.sleep(1)
    assert held.poll() is None  # as nothing told it
    assert not reaches(hosts.laptop, host)
    host.boot()
    assert "left" not in host.run("ls ~")
    assert reaches(hosts.laptop, host)
    hosts.remove(12)


def test_a_full_disk_is_the_hosts_alone() -> None:
    with Hosts(disk_bytes=2**20) as hosts:
        small = hosts.add(10)
        with pytest.raises(CommandFailed, match="No space left"):
            small.run("head -c 2000000 /dev/zero > file")
        hosts.laptop.run("head -c 100000 /dev/zero > file")


def test_a_command_that_fails_or_lasts_tells_what_it_said(hosts: Hosts) -> None:
    with pytest.raises(CommandFailed, match=r"exit code 3\nout\nerr"):
        hosts[10].run("echo out; echo err >&2; exit 3")
    with pytest.raises(CommandFailed, match=r"exit code 124\nbegins"):
        hosts[10].run("echo begins; sleep 100", seconds=1)


def test_two_sets_of_hosts_have_the_same_addresses(hosts: Hosts) -> None:
    with Hosts() as others:
        others.add(10)
        others[10].run(f"touch {SHARED}/theirs")
        assert "theirs" not in hosts[10].run(f"ls {SHARED}")
        assert others.laptop.run(f"{SSH} h10 'ls {SHARED}'") == "theirs\n"


def test_nothing_is_left_of_them_however_they_end(tmp_path: Path) -> None:
    program = f"""
        import os
        import sys
        sys.path.insert(0, {str(Path(module.__file__).parent)!r})
        from hosts import Hosts
        with Hosts() as hosts:
            host = hosts.add(10)
            host.start("exec sleep 4321", hosts.folder / "log")
            inside = [one.run("readlink /proc/self/ns/net").strip() for one in (host, hosts.laptop)]
            print(hosts.folder, os.readlink(f"/proc/{{hosts.switch.pid}}/ns/net"), *inside, flush=True)
            input()
    """
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        run = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert run.stdout is not None
        folder, *namespaces = run.stdout.readline().split()
        assert _inside(namespaces)
        if number is None:
            run.communicate("\n")
            assert not Path(folder).exists()
        else:
            run.send_signal(number)
            run.wait()
        await_true("all processes end", lambda of=namespaces: not _inside(of), 10)
        assert str(tmp_path) not in Path("/proc/mounts").read_text()


def _inside(namespaces: list[str]) -> list[str]:
    """The processes that live in these network namespaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns/net") in namespaces:
                found.append(process.name)
        except OSError:
            continue
    return found


def test_why_there_are_no_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROGRAMS", ("ip", "no-such-program"))
    with pytest.raises(NotInstalled, match="not installed: no-such-program"):
        check_machine()
    monkeypatch.setattr(machine, "NAMESPACES", ("--no-such-namespace",))
    with pytest.raises(CannotHost, match=r"no namespaces or overlays here: .*no-such-namespace"):
        check_machine()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotHost, match="takes root"):
        check_machine()

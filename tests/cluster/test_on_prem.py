"""The shipped cluster/on_prem.yaml on hosts: `ray up`, a search on trials of two workers that stretch over hosts, one
host lost, one added, one cut off for a while; then export, and an end that leaves nothing running."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from cluster_search import EPOCHS, IDS, NAME, ClusterSearch, workers_on
from hosts import SHARED, Host, await_true
from laptop import FILE, HEAD, ROOT, Laptop, cluster_hosts
from listening import check_closed, listeners

HERE = Path(__file__).parent
EXPORT = f"python -m rrd_search.export --name {NAME} --output best"
LOADED = (
    "s = torch.export.load('best/student.pt2').module(); print(s(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape)"
)
PATIENCE = 600  # seconds, for what takes some on a machine that does nothing else
CUT_SECONDS = 10
LEFT = re.compile(r"ray::|/ray/|mlflow|^python")
Timed = Callable[[str], AbstractContextManager[None]]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("hosting")
def test_a_search_on_own_servers(tmp_path: Path, timed: Timed) -> None:
    with cluster_hosts() as hosts:
        with timed("three hosts boot"):
            for number in (HEAD, 11, 12):
                hosts.add(number)
        laptop = Laptop(hosts, workers=[11, 12])
        laptop.host.run("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
        with timed("ray up"):
            laptop.ray(f"up -y ~/{FILE}")
        search = ClusterSearch(laptop)  # where hosts are yet to join, it waits for them, which `ray up` does not
        with timed("until all hosts have joined, with the code that ray up brought"):
            check_nodes(laptop)
        with timed("what listens, and what is readable"):
            check_guarded(laptop)
        intruders = start_intruders(laptop, tmp_path)
        check_search(laptop, search, timed)
        check_intruders(intruders)
        with timed("export, and the student on the laptop"):
            laptop.exec(EXPORT)
            laptop.ray(f"rsync-down ~/{FILE} '~/best/' ~/best/")
            assert laptop.host.run(f'python -c "import torch; {LOADED}"').strip() == "torch.Size([2, 10])"
        with timed("another search, as a job"):
            check_job(laptop)
        with timed("a host is taken out"):
            check_taken_out(laptop, laptop.workers[-1])
        with timed("down"):
            check_down(laptop)


def check_nodes(laptop: Laptop) -> None:
    own = f"/home/{laptop.hosts.user}/rrd_search"
    nodes = laptop.python_on_head(HERE / "nodes_told.py", str(1 + len(laptop.workers)))
    assert set(nodes) == {laptop.hosts[number].address for number in (HEAD, *laptop.workers)}
    for told in nodes.values():
        assert told["rrd_search"] == f"{own}/rrd_search/__init__.py"
        assert told["trainables"] == f"{own}/trainables/__init__.py"
        assert told["python"] == f"{own}/.venv/bin/python"
        assert told["storage"] == f"file://{SHARED}"


def check_guarded(laptop: Laptop) -> None:
    """Secrets are the user's alone, nothing but sshd and Ray is open to the network, and Ray's dashboard and agents do
    and tell nothing without the token."""
    for number in (HEAD, *laptop.workers):
        check_closed(laptop.hosts[number])
    await_true("MLflow", lambda: 5000 in {one.port for one in listeners(laptop.head)}, PATIENCE)
    addresses = {(one.port, one.address) for one in listeners(laptop.head) if one.port in (5000, 8265)}
    assert addresses == {(5000, "127.0.0.1"), (8265, "127.0.0.1")}
    check_dashboard(laptop)


def check_dashboard(laptop: Laptop) -> None:
    token = laptop.head.run("cat ~/.ray/auth_token").strip()
    ask, dashboard = f"python3 {HERE}/intruder.py", "http://127.0.0.1:8265"
    for wrong in ("-", "0" * len(token)):
        codes = json.loads(laptop.head.run(f"{ask} {wrong} {dashboard}"))
        assert set(codes.values()) <= {401, 403}, codes
        agents = [f"http://{laptop.hosts[number].address}:52365" for number in (HEAD, *laptop.workers)]
        for agent in agents:
            codes = json.loads(laptop.host.run(f"{ask} {wrong} {agent}"))
            assert set(codes.values()) <= {401, 403}, codes
    assert json.loads(laptop.head.run(f"{ask} {token} {dashboard}"))["api/version"] == 200


def start_intruders(laptop: Laptop, folder: Path) -> dict[Path, subprocess.Popen]:
    """Each is refused only after half a minute."""
    head, wrong = laptop.head.address, "0" * 64
    tries = [("-", f"{head}:6379"), (wrong, f"{head}:6379"), ("-", f"ray://{head}:10001")]
    logs = {folder / f"intruder-{number}.log": one for number, one in enumerate(tries)}
    return {log: laptop.host.start(f"python {HERE}/intruder.py {' '.join(one)}", log) for log, one in logs.items()}


def check_intruders(intruders: dict[Path, subprocess.Popen]) -> None:
    for log, process in intruders.items():
        assert process.wait(PATIENCE) == 0, log.read_text()
        assert json.loads(log.read_text().splitlines()[-1]) == "refused: ConnectionError"


def check_search(laptop: Laptop, search: ClusterSearch, timed: Timed) -> None:
    """With one host powered off in the middle of a trial, another one added, and one cut off for ten seconds."""
    hosts = laptop.hosts
    with timed("search: until a trial is in the middle"):
        lost = search.await_training(PATIENCE)
    lost.host.power_off()
    with timed("search: another host joins"):
        hosts.add(13)
        laptop.edit([*(one for one in laptop.workers if one != lost.host.number), 13])
        laptop.ray(f"up -y --no-restart ~/{FILE}")
        await_true("a raylet", lambda: has_raylet(hosts[13]), PATIENCE)
    with timed("search: until another trial is in the middle"):
        stalled = search.await_training(PATIENCE, besides=frozenset({lost.trial_id}))
    stalled.host.cut()
    time.sleep(CUT_SECONDS)
    stalled.host.mend()
    with timed("search: until the trial that was cut off ends"):
        while stalled.trial_id in search.unfinished():
            assert workers_on(stalled.host) <= stalled.pids, "its workers were started again"
            time.sleep(0.5)
    with timed("search: the rest"):
        search.wait(PATIENCE)
    with timed("MLflow, through a tunnel"):
        check_recorded(laptop, search)


def check_recorded(laptop: Laptop, search: ClusterSearch) -> None:
    """Every trial and reference has one run, finished, with the whole curve that lies in the storage."""
    with tunnel(laptop, 5000):
        told = laptop.host.run(f"python {HERE}/recorded.py http://127.0.0.1:5000 {NAME}", seconds=PATIENCE)
    recorded = json.loads(told.splitlines()[-1])
    (parent,) = [run for run in recorded["runs"] if run["parent"] is None]
    assert parent["status"] == "FINISHED"
    children = [run for run in recorded["runs"] if run["parent"] is not None]
    assert sorted(run["trial"] for run in children) == sorted(IDS)
    curves = search.curves()
    for run in children:
        assert (run["state"], run["status"]) == ("complete", "FINISHED")
        assert [step for step, _ in sorted(run["curve"])] == list(range(1, EPOCHS + 1))
        assert dict(map(tuple, run["curve"])) == curves[run["trial"]]
    assert recorded["models"] == [NAME], search.said  # the best student


@contextmanager
def tunnel(laptop: Laptop, port: int) -> Iterator[None]:
    """The head's port is the laptop's own."""
    log = laptop.hosts.folder / f"tunnel-{port}.log"
    there = laptop.host.start(f"cd {ROOT} && exec ray attach ~/{FILE} -p {port}", log)
    await_true("a tunnel", lambda: port in {one.port for one in listeners(laptop.host)}, PATIENCE)
    yield
    there.kill()


def check_job(laptop: Laptop) -> None:
    command = "python -m rrd_search.tune quickstart --name by-job --trials 1 --epochs 1 --teacher resnet8"
    with tunnel(laptop, 8265):
        submit = "RAY_ADDRESS=http://127.0.0.1:8265 ray job submit --"
        said = laptop.host.run(f"{submit} {command} --set teacher.epochs=2 --scheduler none", seconds=PATIENCE)
    assert "by-job: 1 trials, 1 complete" in said
    assert "succeeded" in said


def check_taken_out(laptop: Laptop, number: int) -> None:
    laptop.edit([one for one in laptop.workers if one != number])
    laptop.ray(f"up -y --no-restart ~/{FILE}")
    check_ended(laptop, [number], laptop.hosts[number].address)
    check_nodes(laptop)


def check_down(laptop: Laptop) -> None:
    check_ended(laptop, [HEAD, *laptop.workers])


def check_ended(laptop: Laptop, numbers: list[int], which: str = "") -> None:
    """The command says so, and it is so."""
    hosts = [laptop.hosts[number] for number in numbers]
    told = laptop.host.run(f"cd {ROOT} && python cluster/down.py ~/{FILE} {which}", seconds=PATIENCE)
    assert told.splitlines()[-len(hosts) :] == [f"{host.address}: nothing is left" for host in hosts]
    for host in hosts:
        still = [one for one in host.processes().values() if LEFT.search(one)]
        assert not still, f"{host.name}: {still}"
        open_ = [one for one in listeners(host) if not one.command.startswith("sshd:")]
        assert not open_, f"{host.name}: {open_}"


def has_raylet(host: Host) -> bool:
    return any("/raylet/raylet " in command for command in host.processes().values())

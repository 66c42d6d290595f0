"""The shipped cluster.yaml on an EC2 that boots: `ray up`, a search that brings up workers from none, a request that is
filled in part, a spot instance that is taken away, no worker left when the search is over, `ray down`."""

import difflib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ec2 import ADDRESS, ENVIRONMENT, IMAGE, PORT, REGION, Ec2, remember
from hosts import Host, Hosts, await_true
from listening import check_closed
from machine import ROOT

from cluster.aws_account import GROUP, HEAD, WORKER
from trainables.models import MODELS

HERE, FAULTS = Path(__file__).parent, ROOT / "tests" / "faults"
NAME, TRIALS, EPOCHS, EPOCH_SECONDS = "on-aws", 9, 13, 2.0
CLUSTER, BUCKET = "rrd-search", "students"
WITNESS = "/mnt/witness"
S3 = f"s3://{BUCKET}/rrd_search"
PARTLY_FILLED_SECONDS = 120  # after which what was missing must be there
PATIENCE = 300  # seconds, for what takes some on a machine that does nothing else
SEARCH = f"python -m rrd_search.tune {FAULTS}/tiny_space.py --name {NAME} --trials {TRIALS} --epochs {EPOCHS} "
SEARCH += f"--scheduler none --teacher-checkpoint {WITNESS}/teacher.pth"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.usefixtures("hosting")]


def test_a_search_on_instances_that_come_and_go(tmp_path: Path, told: Callable[[str, float], None]) -> None:
    with aws(tmp_path, told) as user:
        user.makes_account_and_file()
        user.brings_up_the_head()
        user.ec2.fill_in_part(1)
        search = user.starts_search()
        user.sees_two_workers_of_three()
        user.ec2.fill_in_part(None)
        lost = user.loses_the_spot_instance()
        user.sees_it_replaced(lost)
        user.sees_the_missing_worker()
        assert search.wait(PATIENCE) == 0, user.log.read_text()
        user.says("the search ends")
        user.finds_everything()
        await_true("no worker is left", lambda: user.ec2.booted() == 1, PATIENCE)
        user.says("the last worker is gone")
        user.takes_the_cluster_down()


@contextmanager
def aws(folder: Path, told: Callable[[str, float], None]) -> Iterator["User"]:
    """A laptop in a world with an AWS."""
    started = time.monotonic()
    mounts = {WITNESS: folder / "witness"}
    mounts[WITNESS].mkdir()
    torch.save(MODELS["resnet8"](num_classes=10).state_dict(), mounts[WITNESS] / "teacher.pth")
    own = {"PYTHONPATH": str(HERE / "no_gpu"), "RRD_EPOCH_SECONDS": str(EPOCH_SECONDS), "OMP_NUM_THREADS": "1"}
    witness = f"mkdir {WITNESS}/$(hostname); echo 'export RRD_WITNESS={WITNESS}/'$(hostname) >> ~/.bashrc"
    installed = f"python3 {HERE}/installed.py {sys.prefix}"
    first_boot = [*remember({**ENVIRONMENT, **own}), witness, installed]
    with Hosts(user="ubuntu", first_boot=first_boot, mounts=mounts) as hosts, Ec2(hosts) as ec2:
        user = User(hosts, ec2, folder, told)
        user.says("hosts and API are up", since=started)
        yield user
        user.says("AWS, all of it", since=started)


class User:
    """What a user types on a laptop, and sees."""

    def __init__(self, hosts: Hosts, ec2: Ec2, folder: Path, told: Callable[[str, float], None]) -> None:
        self.hosts, self.ec2, self.folder, self.log = hosts, ec2, folder, folder / "search.log"
        self.told, self.said = told, time.monotonic()
        hosts.laptop.environment["PATH"] = f"{sys.prefix}/bin:{hosts.laptop.environment['PATH']}"

    def says(self, what: str, since: float | None = None) -> None:
        """What has happened since then, or since something was said last."""
        now = time.monotonic()
        self.told(f"AWS: {what}", now - (self.said if since is None else since))
        self.said = now

    def types(self, command: str, seconds: float = PATIENCE) -> str:
        return self.hosts.laptop.run(f"cd {ROOT} && {command}", seconds=seconds)

    def makes_account_and_file(self) -> None:
        account = f"python cluster/aws_account.py --region {REGION} --bucket {BUCKET} --ssh-from {ADDRESS}"
        token = self.hosts.laptop.start("umask 077; ray get-auth-token --generate", self.folder / "token.log")
        said = self.types(account)
        assert token.wait(60) == 0, (self.folder / "token.log").read_text()
        edits = said.partition("Edit these lines of cluster.yaml:\n")[2].splitlines()
        shipped = (ROOT / "cluster.yaml").read_text()
        changed = under_test(shipped, edits)
        print(*difflib.unified_diff(shipped.splitlines(), changed.splitlines(), lineterm="", n=0), sep="\n")
        self.hosts.laptop.write("cluster.yaml", changed)
        (checked,) = self.types("python -m rrd_search.cluster_check ~/cluster.yaml").splitlines()
        assert ": ok (" in checked
        self.says("the account is made, the file is edited and checked")

    def brings_up_the_head(self) -> None:
        self.types("ray up -y ~/cluster.yaml")
        (self.head,) = self.ec2.running()
        self.says("ray up")

    def starts_search(self) -> subprocess.Popen:
        assert self.ec2.booted() == 1
        return self.hosts.laptop.start(f"cd {ROOT} && ray exec ~/cluster.yaml {shlex.quote(SEARCH)}", self.log)

    def sees_two_workers_of_three(self) -> None:
        """Two on-demand instances are asked for, and one is got."""
        await_true("two workers", lambda: self.ec2.booted() == 3, PATIENCE)
        self.says("two of three workers boot")
        wanted = [one for one in self.ec2.requests() if one["action"] == "RunInstances" and one["wanted"] > 1]
        assert [one["wanted"] for one in wanted] == [2]
        self.partly_filled = wanted[0]["time"]
        assert self.kinds_of_running() == ["gpu_on_demand", "gpu_spot", "head"]

    def kinds_of_running(self) -> list[str]:
        """Of the instances that run, once the API's own record of each of them was seen to be as it should."""
        record = self.ec2.running()
        for instance in record:
            assert as_recorded(self.ec2, instance) == expected(kind_of(instance))
        return sorted(kind_of(instance) for instance in record)

    def loses_the_spot_instance(self) -> str:
        """Its host is off at once, with no notice, while it trains. The trial that it trained."""
        (spot,) = [one for one in self.ec2.running() if kind_of(one) == "gpu_spot"]
        host = self.host(spot)
        await_true("checkpoints on spot", lambda: len(self.seen(host, "write_checkpoint")) >= 2, PATIENCE)
        self.says("the spot instance trains")
        ready = [one for one in self.ec2.running() if tags_of(one)["ray-node-status"] == "up-to-date"]
        assert {"head", "gpu_spot"} <= {kind_of(one) for one in ready}
        for one in ready:  # another worker may boot by now
            check_closed(self.host(one))
        self.ec2.ask("ec2", "terminate_instances", InstanceIds=[spot["InstanceId"]])
        await_true("it is off", lambda: not host.is_on, 10)
        self.lost_at = time.time()
        trial = str(self.seen(host, "begins")[-1]["trial"])
        assert not [one for one in self.seen(host, "finish") if one["trial"] == trial], "it was in the middle of it"
        self.lost_epoch = max(one["epoch"] for one in self.seen(host, "write_checkpoint") if one["trial"] == trial)
        print(f"{host.name} is off; trial {trial} has a checkpoint of epoch {self.lost_epoch}")
        return trial

    def sees_it_replaced(self, lost: str) -> None:
        def again() -> list[dict[str, Any]]:
            return [one for one in self.seen(None, "begins") if one["trial"] == lost and one["time"] > self.lost_at]

        await_true("a replacement", lambda: len(self._spot_starts()) == 2, PATIENCE)
        self.told("AWS: from its loss until another one takes its place", self._spot_starts()[1] - self.lost_at)
        await_true("the lost trial goes on", again, PATIENCE)
        self.told("AWS: from the loss until its trial goes on", again()[0]["time"] - self.lost_at)
        assert again()[0]["epoch"] > self.lost_epoch

    def _spot_starts(self) -> list[float]:
        return [moment.time for moment in self.ec2.moments if moment.on and moment.spot]

    def sees_the_missing_worker(self) -> None:
        def all_on_demand() -> list[float]:
            others = [moment for moment in self.ec2.moments if moment.instance != self.head["InstanceId"]]
            return [moment.time for moment in others if moment.on and not moment.spot]

        await_true("the missing worker", lambda: len(all_on_demand()) == 2, PARTLY_FILLED_SECONDS)
        late = all_on_demand()[1] - self.partly_filled
        self.told("AWS: from the request that was filled in part until what was missing boots", late)
        assert late < PARTLY_FILLED_SECONDS
        assert self.kinds_of_running() == ["gpu_on_demand", "gpu_on_demand", "gpu_spot", "head"]
        assert "1 waiting for nodes" in self.log.read_text()

    def finds_everything(self) -> None:
        head = self.host(self.head)
        head.environment |= ENVIRONMENT
        check = f"source ~/.rrd_search && python {HERE / 'aftermath.py'} {NAME} {TRIALS} {WITNESS}"
        assert head.run(check, seconds=PATIENCE).strip() == ""
        workers = [self.host(one) for one in self.ec2.instances() if kind_of(one) != "head"]
        assert len(workers) == 4
        assert all(self.seen(host, "begins") for host in workers), "each had its part"
        assert not self.seen(head), "and the head none"
        self.says("study, MLflow and bucket are examined")

    def takes_the_cluster_down(self) -> None:
        self._asked_no_more_than_allowed()
        self.types("ray down -y ~/cluster.yaml")
        assert self.ec2.running() == []
        await_true("all hosts are off", lambda: self.ec2.booted() == 0, 10)
        self.says("ray down")

    def _asked_no_more_than_allowed(self) -> None:
        """The simulated AWS lets everybody do everything; so hold what the nodes did against their policies."""
        head = {self.head["PrivateIpAddress"]}
        workers = {one["PrivateIpAddress"] for one in self.ec2.instances()} - head
        for role, addresses in ((HEAD, head), (WORKER, workers)):
            policy = self.ec2.ask("iam", "get_role_policy", RoleName=role, PolicyName=GROUP)["PolicyDocument"]
            allowed = {action for one in policy["Statement"] for action in one["Action"]} | {"s3"}
            asked = [one for one in self.ec2.requests() if one["from"] in addresses]
            done = {"s3" if one["service"] == "s3" else f"{one['service']}:{one['action']}" for one in asked}
            assert "s3" in done
            assert done <= allowed

    def host(self, instance: dict[str, Any]) -> Host:
        return self.ec2.host_of[instance["InstanceId"]]

    def seen(self, host: Host | None, kind: str = "") -> list[dict[str, Any]]:
        """What the witnesses wrote on a host, or on all."""
        files = (self.folder / "witness").glob(f"{host.name if host else '*'}/witness.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return sorted((line for line in lines if line["kind"].startswith(kind)), key=lambda line: line["time"])


def under_test(shipped: str, edits: list[str]) -> str:
    """The shipped file with the lines that users edit, and without what no host here has: a public address, an S3 of
    Amazon's; and with three workers and seconds in place of ten and minutes."""
    lines = shipped.splitlines()
    for edited in edits:
        key = edited[: edited.rindex(" ") + 1]
        (marked,) = (number for number, line in enumerate(lines) if line.startswith(key) and "# EDIT" in line)
        lines[marked] = edited
    changed = "\n".join([*lines, ""])
    for old, new in {
        "use_internal_ips: false": "use_internal_ips: true",
        f" {S3}\n": f" '{S3}?endpoint_override={ADDRESS}:{PORT}&scheme=http&region={REGION}'\n",
        "max_workers: 10": "max_workers: 3",
        "max_workers: 8": "max_workers: 1",
        "idle_timeout_minutes: 10": "idle_timeout_minutes: 0.2",
    }.items():
        assert changed.count(old) == 1, old
        changed = changed.replace(old, new)
    assert untouched(changed) == untouched(shipped), "more was changed than may be"
    return changed


def untouched(file: str) -> dict[str, Any]:
    """All of a cluster's file but what users edit, public addresses, and sizes."""
    config = yaml.safe_load(file)
    for name in ("max_workers", "idle_timeout_minutes", "setup_commands"):
        del config[name]
    for name in ("region", "availability_zone", "use_internal_ips"):
        del config["provider"][name]
    for kind in config["available_node_types"].values():
        kind.pop("max_workers", None)
        for name in ("ImageId", "SecurityGroupIds"):
            del kind["node_config"][name]
    return dict(config)


def kind_of(instance: dict[str, Any]) -> str:
    return tags_of(instance)["ray-user-node-type"]


def tags_of(of: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in of["Tags"]}


def expected(kind: str) -> dict[str, Any]:
    """What the API is to know of an instance."""
    head = kind == "head"
    return {
        "type": "m7i.xlarge" if head else "g5.xlarge",
        "market": "spot" if kind == "gpu_spot" else "on demand",
        "image": IMAGE,
        "profile": HEAD if head else WORKER,
        "groups": [GROUP],
        "tokens": "required",
        "hops": 1,
        "tags": {"project": CLUSTER, "ray-cluster-name": CLUSTER, "ray-node-type": "head" if head else "worker"},
        "disks": [(100 if head else 200, "gp3", True, True, {"project": CLUSTER})],
    }


def as_recorded(ec2: Ec2, instance: dict[str, Any]) -> dict[str, Any]:
    kept = ("project", "ray-cluster-name", "ray-node-type")
    parts = {part["Ebs"]["VolumeId"]: part["Ebs"]["DeleteOnTermination"] for part in instance["BlockDeviceMappings"]}
    disks = ec2.ask("ec2", "describe_volumes", VolumeIds=list(parts))["Volumes"]
    return {
        "type": instance["InstanceType"],
        "market": instance.get("InstanceLifecycle", "on demand"),
        "image": instance["ImageId"],
        "profile": instance["IamInstanceProfile"]["Arn"].rpartition("/")[2],
        "groups": [group["GroupName"] for group in instance["SecurityGroups"]],
        "tokens": instance["MetadataOptions"]["HttpTokens"],
        "hops": instance["MetadataOptions"]["HttpPutResponseHopLimit"],
        "tags": {name: value for name, value in tags_of(instance).items() if name in kept},
        "disks": [
            (one["Size"], one["VolumeType"], one["Encrypted"], parts[one["VolumeId"]], tags_of(one)) for one in disks
        ],
    }

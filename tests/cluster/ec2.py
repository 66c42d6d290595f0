"""An EC2 that boots: the API is moto's, on the laptop of the hosts, and behind every instance that runs stands a host.

with Hosts(user="ubuntu", first_boot=remember(ENVIRONMENT)) as hosts, Ec2(hosts) as ec2:
    hosts.laptop.run("ray up -y cluster.yaml")
    ec2.ask("ec2", "terminate_instances", InstanceIds=[ec2.running()[0]["InstanceId"]])
"""

import json
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from hosts import LAPTOP, NETWORK, CommandFailed, Host, Hosts, await_true
from machine import ROOT

API = Path(__file__).parent / "ec2_api.py"
ADDRESS, PORT = f"{NETWORK}.{LAPTOP}", 5577
REGION, IMAGE = "us-west-2", "ami-00000000000000a77"
# What a process needs to be served here, and by nobody else. On AWS the credentials are the instance's own.
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{PORT}",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": REGION,
}
VALIDATE = {f"MOTO_{name}": "true" for name in ("ENABLE_AMI_VALIDATION", "ENABLE_KEYPAIR_VALIDATION")}
VALIDATE |= {"MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true"}
ASK = """\
import boto3, json, sys
service, request, arguments = json.loads(sys.argv[1])
print(json.dumps(getattr(boto3.client(service), request)(**arguments), default=str))
"""
START_SECONDS = 60.0
LOOK_SECONDS = 0.1


class Moment(NamedTuple):
    """At which a host was on, or off again."""

    time: float  # time.time()
    on: bool
    instance: str  # its id
    spot: bool


class Ec2:
    """Serves, and powers hosts on and off, between entry and exit."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.moments: list[Moment] = []
        self.host_of: dict[str, Host] = {}  # of all instances that ever were, by their ids
        self.error: BaseException | None = None  # of the thread that boots the hosts
        self._log = hosts.folder / "ec2.log"
        self._ends = threading.Event()
        self._boots = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        laptop = self.hosts.laptop
        laptop.environment |= ENVIRONMENT
        settings = " ".join(f"{name}={value}" for name, value in {**VALIDATE, "PYTHONPATH": ROOT}.items())
        served = shlex.join([sys.executable, str(API), ADDRESS, str(PORT), IMAGE, str(laptop.home)])
        self._server = laptop.start(f"env {settings} {served}", self._log)
        await_true("AWS answers", lambda: self._answers(laptop), START_SECONDS)
        self._boots.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._boots.join()
        self._server.kill()
        self._server.wait()

    def ask(self, service: str, request: str, **arguments: Any) -> dict[str, Any]:
        """What the API answers to a request of boto3's, from the laptop."""
        asked = json.dumps([service, request, arguments])
        said = self.hosts.laptop.run(shlex.join([sys.executable, "-c", ASK, asked]))
        return dict(json.loads(said))

    def instances(self) -> list[dict[str, Any]]:
        """All that ever were, in the order in which they were asked for."""
        reservations = self.ask("ec2", "describe_instances")["Reservations"]
        return [instance for one in reservations for instance in one["Instances"]]

    def running(self) -> list[dict[str, Any]]:
        return [instance for instance in self.instances() if instance["State"]["Name"] in ("pending", "running")]

    def requests(self) -> list[dict[str, Any]]:
        """Who asked for what: ``time``, ``from`` (its address), ``service``, ``action``, ``wanted`` (instances)."""
        return [json.loads(line) for line in self.hosts.laptop.run("cat ~/requests.jsonl").splitlines()]

    def fill_in_part(self, most: int | None) -> None:
        """From now on no request gets more instances than that, though at least its MinCount; None: all it wants."""
        if most is None:
            self.hosts.laptop.run("rm -f ~/most")
        else:
            self.hosts.laptop.write("most", str(most))

    def booted(self) -> int:
        """How many hosts are on."""
        if self.error is not None:
            raise AssertionError("no host was made for an instance") from self.error
        return sum(host.is_on for host in list(self.host_of.values()))

    def _answers(self, laptop: Host) -> bool:
        assert self._server.poll() is None, self._log.read_text()
        try:
            laptop.run(f"< /dev/tcp/{ADDRESS}/{PORT}")
        except CommandFailed:
            return False
        return True

    def _follow(self) -> None:
        try:
            with self._log.open() as said:
                while not self._ends.wait(LOOK_SECONDS):
                    news = [line for line in said.readlines() if line.startswith("[")]
                    if news:
                        self._settle(json.loads(news[-1]))
        except BaseException as error:
            self.error = error

    def _settle(self, instances: list[dict[str, Any]]) -> None:
        for instance in instances:
            name, number = instance["id"], int(instance["address"].rpartition(".")[2])
            if instance["runs"] and name not in self.host_of:
                if (key := f"{instance['key'].strip()}\n") not in self.hosts.authorized:
                    self.hosts.authorized.append(key)
                self.host_of[name] = self.hosts.add(number)
                self.moments.append(Moment(time.time(), True, name, instance["spot"]))
            elif not instance["runs"] and name in self.host_of and self.host_of[name].is_on:
                self.hosts.remove(number)
                self.moments.append(Moment(time.time(), False, name, instance["spot"]))


def remember(environment: dict[str, str]) -> list[str]:
    """Commands after which the shells of a host have this environment."""
    lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    return [f"printf %s {shlex.quote(lines)} >> ~/.bashrc"]

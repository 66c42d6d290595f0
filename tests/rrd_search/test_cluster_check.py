"""The shipped cluster files are fine; each broken variant is refused in one line that names the place and what
would be right."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml

from rrd_search.cluster_check import main
from rrd_search.cluster_files import aws, commands
from rrd_search.cluster_files.kubernetes import schemas
from rrd_search.cluster_files.network_policy import selects

ROOT = Path(__file__).parents[2]
AWS, OWN, KUBERAY, SLURM = "cluster.yaml", "cluster/on_prem.yaml", "cluster/kuberay.yaml", "cluster/slurm.sh"
SHIPPED = {
    AWS: r"ok \(ray up on AWS in us-west-2: head m7i\.xlarge; gpu_on_demand 0 to 2 .*gpu_spot 0 to 8 \(.*, spot\)\)",
    OWN: r"ok \(ray up on own servers: head 192\.0\.2\.10 and 2 workers\)",
    KUBERAY: r"ok \(KubeRay, RayJob rrd-search: gpu 0 to 8; .*NetworkPolicy rrd-search\)",
    SLURM: r"ok \(Slurm batch script: nodes 2, time 24:00:00\)",
}
LEFT = {AWS: "ami-0123456789abcdef0.*BUCKET", OWN: r"192\.0\.2\.11", KUBERAY: "REGISTRY.*BUCKET", SLURM: None}


@dataclass(frozen=True)
class Broken:
    """A shipped file with ``old`` replaced by ``new``, wherever it is, and what is said of it."""

    file: str
    old: str
    new: str
    said: str


SPOT = r"available_node_types\.gpu_spot\.node_config\."
HEAD = r"available_node_types\.head\.node_config\."
POD = r"RayJob\.spec\.rayClusterSpec\.workerGroupSpecs\[0\]\.template\.spec\."
CASES = {
    # the shape of a file for `ray up`
    "no YAML": Broken(AWS, "max_workers: 10 ", "max_workers: [10 ", "line \\d+: no YAML: "),
    "a tab": Broken(AWS, "  type: aws", "\ttype: aws", "line 11: no YAML: found character .*t'"),
    "a field twice": Broken(AWS, "idle_timeout_minutes: 10", "max_workers: 10", "line 8: max_workers is there twice"),
    "a number as a name": Broken(AWS, "labels: {rrd/market: spot}", "labels: {3: spot}", "put 3 in quotes"),
    "unknown field": Broken(AWS, "idle_timeout_minutes", "idle_timeout_minute", "did you mean idle_timeout_minutes?"),
    "unknown provider": Broken(AWS, "type: aws", "type: asw", "provider.type must be aws or local .*did you mean aws?"),
    "no provider": Broken(AWS, "provider:", "providers:", "provider.type must be aws or local .*got nothing"),
    "wrong type": Broken(
        AWS, "max_workers: 10 ", "max_workers: many ", "max_workers must be a whole number, got 'many'"
    ),
    "nothing": Broken(AWS, "head_setup_commands: []", "head_setup_commands:", "must be a list, got nothing"),
    "no ssh user": Broken(OWN, "  ssh_user: ubuntu ", "  #", "auth.ssh_user is missing"),
    "min_workers on AWS": Broken(AWS, "upscaling_speed: 10 ", "min_workers: 1 ", "min_workers: no such field"),
    # what is started on nodes
    "dashboard everywhere": Broken(
        AWS, "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", r"head_start_ray_commands\[1\]: 0\.0\.0\.0 opens"
    ),
    "dashboard everywhere, IPv6": Broken(AWS, "dashboard-host=127.0.0.1", "dashboard-host=::", r"\[1\]: :: opens"),
    "dashboard on a network": Broken(
        OWN, "dashboard-host=127.0.0.1", "dashboard-host=192.0.2.10", "--dashboard-host must be 127.0.0.1, .*got 192"
    ),
    "Ray's own dashboard": Broken(AWS, "--dashboard-host=127.0.0.1 ", "", "an explicit --dashboard-host=127.0.0.1"),
    "Ray's own commands": Broken(AWS, "head_start_ray_commands:", "head_setup:", "head_setup: no such field"),
    "option that ray start has not": Broken(
        AWS,
        "--object-store-memory",
        "--object-store-memry",
        "no --object-store-memry; did you mean object-store-memory?",
    ),
    "no autoscaler": Broken(
        AWS, "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "or no worker is ever started"
    ),
    "mlflow everywhere": Broken(
        AWS, "- bash ~/rrd_search/cluster/mlflow.sh", "- mlflow server --host 192.0.2.1", "--host of mlflow must be 127"
    ),
    "mlflow everywhere, in short": Broken(
        AWS, "- bash ~/rrd_search/cluster/mlflow.sh", "- mlflow server -h 192.0.2.1 --port 80", "got 192.0.2.1"
    ),
    "mlflow everywhere, by its environment": Broken(
        AWS, "- ray stop\n", "- MLFLOW_HOST=0.0.0.0:80 mlflow server\n", r"0\.0\.0\.0 opens to every network"
    ),
    "mlflow that runs jobs": Broken(
        AWS,
        "- bash ~/rrd_search/cluster/mlflow.sh",
        "- mlflow server",
        "needs MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
    ),
    # tokens and secrets
    "no token": Broken(
        AWS, "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts: ~/.ray/auth_token is missing"
    ),
    "no set-up": Broken(
        AWS, "- bash ~/rrd_search/cluster/node.sh", "- echo", r"setup_commands: nothing .*run cluster/node\.sh"
    ),
    "set-up without effect": Broken(
        AWS,
        "- bash ~/rrd_search/cluster/node.sh",
        "- export RAY_AUTH_MODE=token; echo",
        "nothing switches Ray's token mode on",
    ),
    "set-up of its own": Broken(
        AWS,
        "  gpu_spot:\n",
        "  gpu_spot:\n    worker_setup_commands: [pip list]\n",
        r"available_node_types\.gpu_spot\.worker_setup_commands: nothing switches Ray's token mode on",
    ),
    "no authentication": Broken(
        OWN, "ray start --head", "RAY_AUTH_MODE=disabled ray start --head", "RAY_AUTH_MODE must be token, got disabled"
    ),
    "key in clear": Broken(
        AWS,
        "  - ray stop\n",
        "  - export AWS_SECRET_ACCESS_KEY=abcd1234\n",
        "the value of AWS_SECRET_ACCESS_KEY: no secrets",
    ),
    "key in a comment": Broken(AWS, "# Installs", "# AKIAABCDEFGHIJKLMNOP Installs", "line 76 holds an AWS access key"),
    "token in clear": Broken(
        OWN, "  - ray stop\n", "  - echo 0123456789abcdef0123 > ~/.ray/auth_token\n", "holds Ray's token: no secrets"
    ),
    # files of the project
    "script that is not there": Broken(AWS, "cluster/mlflow.sh", "cluster/mlfow.sh", "did you mean mlflow.sh?"),
    "folder that is not there": Broken(
        AWS, ": trainables", ": trainable", "no trainable in .*did you mean trainables?"
    ),
    "part of the project": Broken(OWN, "  ~/rrd_search/Makefile: Makefile\n", "", "~/rrd_search/Makefile is missing"),
    # AWS
    "unknown field of a disk": Broken(
        AWS,
        "VolumeSize: 200",
        "VolumSize: 200",
        rf"{SPOT}BlockDeviceMappings\[0\]\.Ebs\.VolumSize: no such field; did you mean VolumeSize\?",
    ),
    "wrong type of a disk": Broken(
        AWS, "VolumeSize: 100", "VolumeSize: 100G", r"VolumeSize must be a whole number, got '100G'"
    ),
    "wrong kind of a disk": Broken(AWS, "VolumeType: gp3", "VolumeType: pg3", "must be one of .*did you mean gp3?"),
    "no such instance": Broken(
        AWS, "g5.xlarge", "g5.xlrge", r"InstanceType: no such value: .*did you mean g5\.xlarge\?"
    ),
    "disk in clear": Broken(AWS, "Encrypted: true", "Encrypted: false", r"\[0\]\.Ebs\.Encrypted must be true"),
    "no disk": Broken(AWS, "BlockDeviceMappings:", "BlockDeviceMapping:", "did you mean BlockDeviceMappings?"),
    "no image": Broken(AWS, "      ImageId: ", "      KeyName: ", rf"{HEAD}ImageId is missing"),
    "image of no kind": Broken(
        AWS, "ami-0123456789abcdef0", "ubuntu-24.04", r"ImageId: 'ubuntu-24\.04' is no id such as ami-"
    ),
    "Ray's security group": Broken(
        AWS, "      SecurityGroupIds: [", "      SubnetIds: [", r"SubnetIds: 'sg-.*' is no id such as subnet-"
    ),
    "no security group": Broken(AWS, "[sg-0123456789abcdef0]", "[]", rf"{SPOT}SecurityGroupIds is missing; Ray's own"),
    "open security group": Broken(
        AWS,
        "  cache_stopped",
        "  security_group: {IpPermissions: [{IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n  cache_stopped",
        r"provider\.security_group\.IpPermissions\[0\]\.IpRanges\[0\]\.CidrIp: 0\.0\.0\.0/0 lets everybody in",
    ),
    "IMDSv1": Broken(AWS, "HttpTokens: required", "HttpTokens: optional", "HttpTokens must be required"),
    "no profile": Broken(
        AWS, "IamInstanceProfile: {Name: rrd-search-head}", "KeyName: k", rf"{HEAD}IamInstanceProfile is"
    ),
    "the head's profile": Broken(
        AWS,
        "rrd-search-worker",
        "rrd-search-head",
        rf"{SPOT}IamInstanceProfile is the head's, which may start instances",
    ),
    "spot head": Broken(
        AWS,
        "InstanceType: m7i.xlarge",
        "InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}",
        "the head",
    ),
    "stopped nodes": Broken(
        AWS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "cache_stopped_nodes must be false"
    ),
    "unknown region": Broken(AWS, "region: us-west-2 ", "region: us-wst-2 ", "did you mean us-west-2?"),
    "zone of another region": Broken(AWS, "us-west-2a,", "us-east-1a,", "us-east-1a is not in the region us-west-2"),
    "unknown head": Broken(AWS, "head_node_type: head", "head_node_type: haed", "did you mean head?"),
    "more than the file's": Broken(AWS, "max_workers: 10 ", "max_workers: 4 ", "8 workers are more than max_workers"),
    "least above most": Broken(AWS, "min_workers: 0", "min_workers: 3", "min_workers 3 is more than its max_workers 2"),
    "keys in the file": Broken(AWS, "  type: aws", "  type: aws\n  aws_credentials: {}", "no secrets in this file"),
    # hosts of one's own
    "one worker more": Broken(
        OWN, "192.0.2.12]", "192.0.2.12, 192.0.2.13]", "min_workers must be 3, .*max_workers must be 3"
    ),
    "worker twice": Broken(OWN, "192.0.2.12]", "192.0.2.11]", r"worker_ips: 192\.0\.2\.11 is there twice"),
    "head as a worker": Broken(
        OWN, "192.0.2.12]", "192.0.2.10]", r"provider\.worker_ips\[1\]: 192\.0\.2\.10 is the head_ip"
    ),
    "another head": Broken(
        OWN, "head_ip: 192.0.2.10", "head_ip: 192.0.2.9", r"must be 192\.0\.2\.9, .*got 192\.0\.2\.10"
    ),
    "no address": Broken(OWN, "192.0.2.12]", "192.0.2.512]", r"192\.0\.2\.512 is no IP address"),
    "no head": Broken(OWN, "head_ip:", "headip:", "headip: no such field; did you mean head_ip?"),
    # Kubernetes
    "unknown kind": Broken(
        KUBERAY, "kind: RayJob", "kind: RayJobs", "'RayJobs' is not known here; did you mean RayJob?"
    ),
    "another version": Broken(KUBERAY, "ray.io/v1\n", "ray.io/v1alpha1\n", "apiVersion must be ray.io/v1, got"),
    "unknown field of a group": Broken(
        KUBERAY,
        "maxReplicas",
        "maxReplica",
        r"workerGroupSpecs\[0\]\.maxReplica: no such field; did you mean maxReplicas\?",
    ),
    "unknown field of a pod": Broken(KUBERAY, "resources:", "resource:", rf"{POD}containers\[0\]\.resource: no such"),
    "missing field": Broken(KUBERAY, "groupName: gpu", "rayStartParams: {}", "rayStartParams is there twice"),
    "text for a number": Broken(
        KUBERAY, "backoffLimit: 3 ", 'backoffLimit: "3" ', "backoffLimit must be a whole number"
    ),
    "number for a text": Broken(KUBERAY, 'num-cpus: "0"', "num-cpus: 0", "num-cpus must be a text, got 0"),
    "no amount": Broken(KUBERAY, "memory: 14Gi", "memory: 14 GB", "memory must be an amount such as .*got '14 GB'"),
    "no token mode": Broken(KUBERAY, "mode: token", "mode: disabled", "authOptions.mode must be token, got 'disabled'"),
    "Ray before tokens": Broken(KUBERAY, 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "2.52.0 or newer"),
    "no policy": Broken(KUBERAY, "kind: NetworkPolicy", "kind: Role", "NetworkPolicy: .*there is none"),
    "policy for the head": Broken(
        KUBERAY,
        "podSelector:\n    matchExpressions:\n      - {key: ray.io/cluster, operator: Exists}",
        "podSelector:\n    matchLabels: {ray.io/node-type: head}",
        "for all its pods, head and workers",
    ),
    "policy for everybody": Broken(
        KUBERAY, "    - from:\n", "    - {}\n    - from:\n", r"ingress\[0\]\.from is missing"
    ),
    "policy of another job": Broken(
        KUBERAY, "job-name: rrd-search", "job-name: other", "let in the pod that submits the job.*job-name: rrd-search"
    ),
    "image that moves": Broken(
        KUBERAY,
        f"rrd_search@sha256:{64 * '0'}",
        "rrd_search:latest",
        r"containers\[0\]\.image must be pinned by a digest",
    ),
    "dashboard of a pod": Broken(
        KUBERAY, '        num-cpus: "0"', "        dashboard-host: 0.0.0.0", "dashboard-host must not be given"
    ),
    "option of a pod": Broken(KUBERAY, "num-cpus:", "num-cpu:", "num-cpu: no such option .*did you mean num-cpus?"),
    "another program": Broken(
        KUBERAY, "rrd_search.tune", "rrd_search.tun", "entrypoint must call python -m rrd_search.tune"
    ),
    "GPUs": Broken(
        KUBERAY,
        'gpu: "1"}  # EDIT: as',
        'gpu: "2"}  # EDIT: as',
        "nvidia.com/gpu must be the same in limits and in requests",
    ),
    "GPUs of no kind": Broken(KUBERAY, "nvidia.com/gpu", "nvidia.com/gpus", "did you mean nvidia.com/gpu?"),
    "too many replicas": Broken(
        KUBERAY, " replicas: 0", " replicas: 9", "replicas must be from .*0 to maxReplicas 8, got 9"
    ),
    "nobody starts workers": Broken(
        KUBERAY, "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "no worker would ever start"
    ),
    "key of a pod": Broken(
        KUBERAY, "{name: MLFLOW_TRACKING_URI,", "{name: AWS_SECRET_ACCESS_KEY,", "comes with valueFrom.secretKeyRef"
    ),
    "mlflow of a pod": Broken(
        KUBERAY, "--host, 127.0.0.1", "--host, 0.0.0.0", r"containers\[1\]\.command: 0\.0\.0\.0 opens"
    ),
    "published": Broken(
        KUBERAY,
        "    headGroupSpec:\n",
        "    headGroupSpec:\n      serviceType: LoadBalancer\n",
        "serviceType must be ClusterIP",
    ),
    "disk of a pod": Broken(
        KUBERAY, "name: RRD_STORAGE", "name: STORAGE", r"containers\[0\]\.env: RRD_STORAGE is missing"
    ),
    "secret": Broken(KUBERAY, "kind: ServiceAccount", "kind: Secret", "kind: Secret: no secrets in this file"),
    # Slurm
    "no bash": Broken(SLURM, "    sleep 2\ndone\n", "    sleep 2\n", "line \\d+: syntax error"),
    "no shebang": Broken(SLURM, "#!/usr/bin/env bash\n", "", "line 1 must be #!/usr/bin/env bash"),
    "unknown option": Broken(
        SLURM, "--gpus-per-node", "--gpu-per-node", "no option --gpu-per-node; did you mean gpus-per-node?"
    ),
    "time of no kind": Broken(SLURM, "--time=24:00:00 ", "--time=1d ", "--time must be minutes, .*got 1d"),
    "time of no kind, short": Broken(SLURM, "--time=24:00:00 ", "-t 1d ", "--time must be minutes, .*got 1d"),
    "time of no kind, apart": Broken(SLURM, "--time=24:00:00 ", "--time 1d ", "--time must be minutes, .*got 1d"),
    "no time": Broken(SLURM, "#SBATCH --time=24:00:00", "#", "#SBATCH --time is missing"),
    "no nodes": Broken(SLURM, "#SBATCH --nodes=2", "#", "#SBATCH --nodes is missing"),
    "option too late": Broken(
        SLURM, "set -euo pipefail\n", "set -eu\n#SBATCH --mem=0\n", "reads no #SBATCH behind the first"
    ),
    "option as a comment": Broken(SLURM, "#SBATCH --output", "# SBATCH --output", "is a comment to Slurm"),
    "no token mode of a job": Broken(SLURM, "RAY_AUTH_MODE=token ", "", "`export RAY_AUTH_MODE=token` is missing"),
    "disk of a node": Broken(SLURM, "export RRD_STORAGE=", "export STORAGE=", "`export RRD_STORAGE=...` is missing"),
    "dashboard of a job": Broken(
        SLURM, "--dashboard-host=127.0.0.1 ", "", "needs an explicit --dashboard-host=127.0.0.1"
    ),
    "mlflow of a job": Broken(
        SLURM, "--host 127.0.0.1", "--host=0.0.0.0", r"line \d+: 0\.0\.0\.0 opens to every network"
    ),
    "mlflow of a job, unsaid": Broken(SLURM, "--host 127.0.0.1", "", "needs an explicit --host 127.0.0.1"),
    "mlflow of a job that runs jobs": Broken(
        SLURM, " MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "", "runs jobs for whoever"
    ),
}
OTHERS = {
    "empty": ("a.yaml", "", "is empty"),
    "comments": ("a.yaml", "# nothing\n", "is empty"),
    "list": ("a.yaml", "- a\n- b\n", r"must be a mapping of fields \(FIELD: VALUE\), got \['a', 'b'\]"),
    "text": ("a.yaml", "just words\n", "must be a mapping"),
    "another kind": ("a.yaml", "services: {}\n", r"of no kind that is known here; checked are .*ray up"),
    "another script": ("a.sh", "#!/bin/sh\nls\n", "a script without #SBATCH lines"),
    "within itself": ("a.yaml", "provider: &a\n  type: *a\n", "line 1: a part that holds itself"),
    "two documents": ("a.yaml", "cluster_name: a\n---\nprovider: {}\n", "`ray up` reads one document"),
    "no text": ("a.yaml", b"\xff\xfe\x00", "is no text file"),
}


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], str]:
    """Checks a file, and returns the one line with which it is refused."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(file: Path) -> str:
        assert main([str(file)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"error: {file}: ")
        assert said.err.count("\n") == 1
        return said.err.removeprefix(f"error: {file}: ").rstrip()

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_broken_variant_is_refused(case: str, tmp_path: Path, refused: Callable[[Path], str]) -> None:
    broken = CASES[case]
    text = (ROOT / broken.file).read_text()
    assert broken.old in text, "the shipped file has changed"
    file = tmp_path / Path(broken.file).name
    file.write_text(text.replace(broken.old, broken.new))
    said = refused(file)
    assert re.search(broken.said, said), said


@pytest.mark.parametrize("case", OTHERS)
def test_files_of_no_kind_are_refused(case: str, tmp_path: Path, refused: Callable[[Path], str]) -> None:
    name, content, expected = OTHERS[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(tmp_path / name)
    assert re.search(expected, said), said


def test_a_file_that_is_not_there(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    assert refused(tmp_path / "cluster.yml") == "No such file or directory"
    assert refused(tmp_path) == "Is a directory"


@pytest.mark.parametrize("file", SHIPPED)
def test_the_shipped_files_are_fine(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([file]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    assert re.fullmatch(f"{file}: {SHIPPED[file]}", lines[0])
    left = [line for line in lines if "still to be filled in" in line]
    assert bool(left) == bool(LEFT[file])
    assert not left or re.search(LEFT[file], left[0]), left
    if file in (AWS, OWN):
        assert "not on this machine yet" in lines[-1]
        assert "~/.ray/auth_token (ray get-auth-token --generate)" in lines[-1]


def test_a_filled_in_file_has_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / AWS).read_text().replace("BUCKET", "our-bucket").replace("0123456789abcdef0", "0a1b2c3d4e5f60718")
    (tmp_path / AWS).write_text(text)
    assert main([str(tmp_path / AWS)]) == 0
    assert "still to be filled in" not in capsys.readouterr().out


def test_token_mode_where_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / OWN).read_text().replace("- bash ~/rrd_search/cluster/node.sh", "- echo")
    (tmp_path / "own.yaml").write_text(text.replace("; ray start", "; export RAY_AUTH_MODE=token; ray start"))
    assert main([str(tmp_path / "own.yaml")]) == 0


def test_several_problems_are_one_line(tmp_path: Path, refused: Callable[[Path], str]) -> None:
    text = (ROOT / AWS).read_text().replace("Encrypted: true", "Encrypted: false").replace("required", "optional")
    (tmp_path / AWS).write_text(text)
    said = refused(tmp_path / AWS)
    assert said.count("; ") >= 5
    assert said.endswith("and 1 more")


def test_without_botocore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[Path], str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)
    aws.regions.cache_clear()
    aws.run_instances.cache_clear()
    assert "pip install 'rrd-search[aws]'" in refused(ROOT / AWS)


def test_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text((ROOT / OWN).read_text().replace("192.0.2.12]", "192.0.2.11]"))
    command = [sys.executable, "-m", "rrd_search.cluster_check", *SHIPPED, str(tmp_path / "bad.yaml"), "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ": ok (" in line] == [*SHIPPED]
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/bad.yaml: provider.worker_ips: 192.0.2.11 is there twice",
        "error: nowhere.yaml: No such file or directory",
    ]


def test_the_makefile_checks_what_is_shipped() -> None:
    made = subprocess.run(["make", "--dry-run", "cluster-check"], cwd=ROOT, capture_output=True, text=True)
    assert f"-m rrd_search.cluster_check {' '.join(SHIPPED)}\n" in made.stdout


def test_options_of_ray_start_are_rays() -> None:
    """Those that click has: 44 of Ray 2.60, and its source is read for them."""
    known = commands.ray_start_options()
    assert len(known) > 40
    assert {"head", "address", "dashboard-host", "node-ip-address", "autoscaling-config", "block", "no-monitor"} < known


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchLabels": {"any": "7"}}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["2"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["2"]}]}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
    ],
)
def test_selectors(selector: dict[str, object], chosen: bool) -> None:
    assert selects(selector, {"a": "1", "any": "*"}) == chosen


def test_the_schema_of_a_crd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRD as the operator's: strict, amounts as numbers or texts, and what occurs twice is there once."""
    pod = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "description": "long"},
            "memory": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    spec = {"type": "object", "properties": {"head": pod, "workers": {"type": "array", "items": pod}}}
    whole = {"type": "object", "properties": {"spec": spec, "status": {"type": "object"}, "kind": {}, "apiVersion": {}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": whole}}
    (tmp_path / "crd.yaml").write_text(yaml.dump({"spec": {"names": {"kind": "Toy"}, "versions": [version]}}))
    script = runpy.run_path(str(ROOT / "cluster/kuberay_schema.py"))
    script["main"].__globals__["OUTPUT"] = tmp_path / "toy.json"
    monkeypatch.setattr(sys, "argv", ["kuberay_schema.py", "--source", "a toy", str(tmp_path / "crd.yaml")])
    script["main"]()
    made = yaml.safe_load((tmp_path / "toy.json").read_text())
    toy = {**made["kinds"]["ray.io/v1 Toy"], "definitions": made["definitions"]}
    good = {"apiVersion": "ray.io/v1", "kind": "Toy", "metadata": {"name": "a"}}
    workers = [{"image": "a", "memory": "3Gi"}, {"image": "a", "memory": 3, "labels": {"b": "c"}}]
    jsonschema.validate({**good, "spec": {"head": {"image": "a"}, "workers": workers}}, toy)
    for bad in ({"head": {}}, {"head": {"image": "a", "imag": "b"}}, {"workers": [{"image": 3}]}, {"worker": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "spec": bad}, toy)
    assert str(toy).count("'image': {") == 1
    assert "description" not in str(toy)


def test_the_schema_that_is_shipped() -> None:
    for schema in schemas().values():
        jsonschema.Draft7Validator.check_schema(schema)
    assert {"ray.io/v1 RayJob", "ray.io/v1 RayCluster", "networking.k8s.io/v1 NetworkPolicy"} == schemas().keys()
    assert (ROOT / "rrd_search/cluster_files/kuberay.json").stat().st_size < 60_000

"""What `python cluster/aws_account.py` makes in an account that moto simulates in this process: no network."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from moto.ssm.models import Parameter, ssm_backends
from s3_server import CREDENTIALS

from cluster.aws_account import GROUP, HEAD, IMAGE, WORKER, main

ROOT = Path(__file__).parent.parent.parent
REGION, BUCKET, OFFICE, ACCOUNT = "us-west-2", "students", "203.0.113.0/28", "123456789012"
ARGUMENTS = ["--region", REGION, "--bucket", BUCKET, "--ssh-from", OFFICE]
AMI = "ami-0fedcba9876543210"


@pytest.fixture(scope="module")
def account() -> Iterator[None]:
    """One in which SSM knows the image. What a test leaves in it, the next run of ``main`` has to mend."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        _tell_ssm()
        yield


def _tell_ssm() -> None:
    image = Parameter(ACCOUNT, IMAGE, AMI, "String", None, None, None, datetime.now(), 1, "aws:ec2:image")
    ssm_backends[ACCOUNT][REGION]._parameters[IMAGE].append(image)


def policy_of(role: str) -> list[dict[str, Any]]:
    iam = boto3.client("iam")
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == [GROUP]
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    found = iam.get_role_policy(RoleName=role, PolicyName=GROUP)["PolicyDocument"]
    return list(found["Statement"])


def ways_in() -> set[tuple[str, int, int, str]]:
    """What the security group lets in: protocol, ports, source."""
    ec2 = boto3.client("ec2", REGION)
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [GROUP]}])["SecurityGroups"]
    found = set()
    for rule in group["IpPermissions"]:
        ports = rule["IpProtocol"], rule.get("FromPort", -1), rule.get("ToPort", -1)
        sources = [one["CidrIp"] for one in rule["IpRanges"]] + [one["CidrIpv6"] for one in rule["Ipv6Ranges"]]
        sources += ["members" for one in rule["UserIdGroupPairs"] if one["GroupId"] == group["GroupId"]]
        assert len(sources) == len(rule["IpRanges"] + rule["Ipv6Ranges"] + rule["UserIdGroupPairs"])
        found |= {(*ports, source) for source in sources}
    return found


@pytest.mark.usefixtures("account")
def test_the_bucket_is_private():
    assert main(ARGUMENTS) == 0
    s3 = boto3.client("s3", REGION)
    closed = s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert len(closed) == 4
    assert all(closed.values())
    assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == REGION


@pytest.mark.usefixtures("account")
def test_the_security_group_lets_in_ssh_from_there_and_its_members():
    main(ARGUMENTS)
    assert ways_in() == {("tcp", 22, 22, OFFICE), ("-1", -1, -1, "members")}
    main([*ARGUMENTS[:-1], "2001:db8:1::/48"])  # who has moved, moves the hole in the wall too
    assert ways_in() == {("tcp", 22, 22, "2001:db8:1::/48"), ("-1", -1, -1, "members")}


@pytest.mark.usefixtures("account")
def test_other_ways_into_the_security_group_are_closed():
    main(ARGUMENTS)
    ec2 = boto3.client("ec2", REGION)
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [GROUP]}])["SecurityGroups"]
    everybody = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    opened = [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **everybody} for port in (22, 8265)]
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=opened)
    main(ARGUMENTS)
    assert ways_in() == {("tcp", 22, 22, OFFICE), ("-1", -1, -1, "members")}


@pytest.mark.usefixtures("account")
def test_a_worker_may_use_the_bucket_and_nothing_else():
    main(ARGUMENTS)
    there = f"arn:aws:s3:::{BUCKET}"
    assert {(action, one["Resource"]) for one in policy_of(WORKER) for action in one["Action"]} == {
        ("s3:ListBucket", there),
        *((f"s3:{action}", f"{there}/rrd_search/*") for action in ("GetObject", "PutObject", "DeleteObject")),
        ("s3:AbortMultipartUpload", f"{there}/rrd_search/*"),
    }


@pytest.mark.usefixtures("account")
def test_the_head_may_start_workers_of_this_cluster_and_end_them():
    main(ARGUMENTS)
    assert policy_of(HEAD)[:2] == policy_of(WORKER)
    more = policy_of(HEAD)[2:]
    assert all(one["Effect"] == "Allow" for one in more)
    assert [one["Action"] for one in more if one["Resource"] == "*"] == [["ec2:DescribeInstances"]]
    named = {"*": [], "RunInstances": [], "CreateTags": [], "TerminateInstances": [], "PassRole": []}
    for one in more:
        for action in one["Action"]:
            named.setdefault(action.split(":")[1], []).append(one)
    assert sorted(named) == ["*", "CreateTags", "DescribeInstances", "PassRole", "RunInstances", "TerminateInstances"]
    instances = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/*"
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())["cluster_name"]
    for one in named["TerminateInstances"]:
        assert one["Resource"] == instances
        assert one["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": cluster}}
    for one in named["RunInstances"]:
        tagged = one.get("Condition") == {"StringEquals": {"aws:RequestTag/ray-cluster-name": cluster}}
        assert tagged == (one["Resource"] == instances), "what is started bears the tag"
    assert all("Condition" in one for one in named["CreateTags"]), "new instances, or such as bear the tag"
    (one,) = named["PassRole"]
    assert one["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/{WORKER}"
    assert one["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


@pytest.mark.usefixtures("account")
def test_instances_get_the_roles():
    main(ARGUMENTS)
    iam = boto3.client("iam")
    for name in (HEAD, WORKER):
        (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        assert role["RoleName"] == name
        trust = [(one["Principal"], one["Action"]) for one in role["AssumeRolePolicyDocument"]["Statement"]]
        assert trust == [({"Service": "ec2.amazonaws.com"}, "sts:AssumeRole")]


@pytest.mark.usefixtures("account")
def test_a_second_run_changes_nothing_and_mends_what_differs(capsys):
    main(ARGUMENTS)
    first, lines = (policy_of(HEAD), policy_of(WORKER), ways_in()), edits(capsys.readouterr().out)
    iam, s3 = boto3.client("iam"), boto3.client("s3", REGION)
    iam.remove_role_from_instance_profile(InstanceProfileName=HEAD, RoleName=HEAD)
    everything = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
    iam.put_role_policy(RoleName=WORKER, PolicyName=GROUP, PolicyDocument=everything)
    s3.delete_public_access_block(Bucket=BUCKET)
    for _ in range(2):
        assert main(ARGUMENTS) == 0
        assert (policy_of(HEAD), policy_of(WORKER), ways_in()) == first
        assert edits(capsys.readouterr().out) == lines
    assert iam.get_instance_profile(InstanceProfileName=HEAD)["InstanceProfile"]["Roles"][0]["RoleName"] == HEAD
    assert s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]["BlockPublicPolicy"]


def edits(said: str) -> list[str]:
    """The lines of cluster.yaml in what was printed."""
    return [line for line in said.partition("Edit these lines of cluster.yaml:\n")[2].splitlines() if line]


@pytest.mark.usefixtures("account")
def test_the_lines_to_edit_are_those_that_cluster_yaml_marks(capsys):
    main(ARGUMENTS)
    shipped = (ROOT / "cluster.yaml").read_text().splitlines()
    marked = [line.partition("#")[0].rstrip() for line in shipped if line.endswith("# EDIT") or "  # EDIT" in line]
    lines = edits(capsys.readouterr().out)
    assert [key_of(line) for line in lines] == [key_of(line) for line in marked]
    assert f"      ImageId: {AMI}" in lines
    for line, edited in zip(marked, lines, strict=True):
        shipped[next(number for number, one in enumerate(shipped) if one.startswith(line))] = edited
    config = yaml.safe_load("\n".join(shipped))
    kinds = config["available_node_types"]
    assert {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()} == {
        name: HEAD if name == config["head_node_type"] else WORKER for name in kinds
    }
    assert {kind["node_config"]["ImageId"] for kind in kinds.values()} == {AMI}
    assert config["provider"]["region"] == REGION
    offered = boto3.client("ec2", REGION).describe_availability_zones()["AvailabilityZones"]
    assert set(config["provider"]["availability_zone"].split(",")) <= {zone["ZoneName"] for zone in offered}
    assert config["setup_commands"] == [f"bash ~/rrd_search/cluster/node.sh s3://{BUCKET}/rrd_search"]
    assert IMAGE in (ROOT / "cluster.yaml").read_text()


def key_of(line: str) -> str:
    """A line up to its value."""
    return line[: line.rindex(" ")]


@pytest.mark.usefixtures("account")
def test_an_image_that_ssm_does_not_know_is_told(capsys):
    ssm_backends[ACCOUNT][REGION]._parameters.clear()
    assert main(ARGUMENTS) == 1
    _tell_ssm()
    said = capsys.readouterr().out
    assert f"SSM does not know {IMAGE}" in said
    assert "      ImageId: AMI-ID\n" in said


@pytest.mark.usefixtures("account")
def test_a_bucket_elsewhere_is_refused():
    boto3.client("s3", "eu-west-1").create_bucket(
        Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(ValueError, match=f"--bucket elsewhere: it is in eu-west-1, not in {REGION}"):
        main(["--region", REGION, "--bucket", "elsewhere", "--ssh-from", OFFICE])


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0", "0.0.0.0/00"])
def test_ssh_from_everywhere_is_refused(everybody):
    command = [sys.executable, "cluster/aws_account.py", *ARGUMENTS[:-1], everybody]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "--ssh-from" in done.stderr


@pytest.mark.parametrize("wrong", ["here", "203.0.113.7/24", "203.0.113.7/33", ""])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(ValueError, match="--ssh-from must be a network as 203"):
        main([*ARGUMENTS[:-1], wrong])


@pytest.mark.usefixtures("account")
def test_what_aws_refuses_is_one_line():
    with pytest.raises(ValueError, match=r"^AWS: .*InvalidBucketName"):
        main(["--region", REGION, "--bucket", "ab", "--ssh-from", OFFICE])

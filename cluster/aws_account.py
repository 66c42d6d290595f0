"""Makes what cluster.yaml names: a private bucket, one role for the head and one for workers, a security group.

python cluster/aws_account.py --region us-west-2 --bucket NAME --ssh-from CIDR, once, with credentials of your own. Run
again, it mends what is missing or differs. It prints the lines of cluster.yaml to edit.
"""

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rrd_search.command import Parser, run_command

HEAD, WORKER, GROUP = "rrd-search-head", "rrd-search-worker", "rrd-search"  # as cluster.yaml has them
FOLDER = "rrd_search"  # of the bucket: the nodes may read and write nothing else in it
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
CLUSTER_TAG = "ray-cluster-name"  # Ray puts it on every instance that it starts
INSTANCES = {"Service": "ec2.amazonaws.com"}
LINES = """\
  region: {region}
  availability_zone: {zones}
      ImageId: {image}
      SecurityGroupIds: [{group}]
  - bash ~/rrd_search/cluster/node.sh s3://{bucket}/{folder}
"""


def main(arguments: list[str]) -> int:
    told = "Make what cluster.yaml names in your AWS account; run again, it mends what differs."
    parser = Parser("cluster/aws_account.py", told)
    parser.add_argument("--region", required=True, help="as us-west-2")
    parser.add_argument("--bucket", required=True, help="to make, or one of yours; names are taken world-wide")
    parser.add_argument("--ssh-from", required=True, metavar="CIDR", help="who may log in, as 203.0.113.7/32")
    options = parser.parse_args(arguments)
    network = _network(options.ssh_from)
    try:
        import boto3
        import botocore.exceptions as failures
    except ImportError as error:
        raise ValueError("boto3 is not installed: make install EXTRAS=aws") from error
    try:
        return Account(boto3.Session(region_name=options.region)).make(options.bucket, network)
    except failures.NoCredentialsError as error:
        raise ValueError("AWS: no credentials: aws configure, or export AWS_PROFILE=NAME") from error
    except (failures.ClientError, failures.BotoCoreError) as error:
        raise ValueError(f"AWS: {error}") from error


class Account:
    """What a session's credentials may change, in its region."""

    def __init__(self, session: Any) -> None:
        self.region = session.region_name
        self.partition = session.get_partition_for_region(self.region)
        self.iam, self.ec2, self.s3, self.ssm = (session.client(name) for name in ("iam", "ec2", "s3", "ssm"))
        self.id = session.client("sts").get_caller_identity()["Account"]

    def make(self, bucket: str, ssh_from: str) -> int:
        """Everything, in an order in which each thing finds what it needs. 1 where the image is left to you."""
        config = yaml.safe_load((Path(__file__).parent.parent / "cluster.yaml").read_text())
        nodes = [kind["node_config"] for kind in config["available_node_types"].values()]
        vpc = self._default_vpc()
        self._bucket(bucket)
        group = self._security_group(vpc, ssh_from)
        stored = self._may_store(bucket)
        self._role(WORKER, stored)
        self._role(HEAD, stored + self._may_start_workers(config["cluster_name"], group))
        self._spot()
        zones = self._zones(vpc, {node["InstanceType"] for node in nodes})
        image = self._image()
        print("\nEdit these lines of cluster.yaml:")
        values = {"region": self.region, "zones": ",".join(zones), "group": group, "bucket": bucket, "folder": FOLDER}
        print(LINES.format(**values, image=image or "AMI-ID"), end="")
        if image is None:
            print(f"\nSSM does not know {IMAGE} here: AMI-ID must be an Ubuntu with NVIDIA's driver and Python 3.11+")
        return 0 if image else 1

    def _bucket(self, name: str) -> None:
        """Nothing in it is ever public; S3 encrypts it by default."""
        place = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        refused = _refused(lambda: self.s3.head_bucket(Bucket=name, ExpectedBucketOwner=self.id), "404", "403")
        if refused == "403":
            raise ValueError(f"--bucket {name}: it exists, and is not yours")
        if refused:
            self.s3.create_bucket(Bucket=name, **({} if self.region == "us-east-1" else place))
        elif (region := self.s3.get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1") != self.region:
            raise ValueError(f"--bucket {name}: it is in {region}, not in {self.region}")
        closed = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        self.s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(closed, True))
        print(f"bucket {name}: {'made' if refused else 'there already'}, not public")

    def _security_group(self, vpc: str, ssh_from: str) -> str:
        """Its id. Lets in ssh from there and all traffic between members; other ways in are closed."""
        where = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [GROUP]}]
        found = self.ec2.describe_security_groups(Filters=where)["SecurityGroups"]
        if not found:
            told = "ssh from its owner's addresses, all traffic between members"
            found = [self.ec2.create_security_group(GroupName=GROUP, Description=told, VpcId=vpc)]
        group = str(found[0]["GroupId"])
        self.ec2.get_waiter("security_group_exists").wait(GroupIds=[group])  # all of AWS learns of it in seconds
        ranges = {"Ipv6Ranges": [{"CidrIpv6": ssh_from}]} if ":" in ssh_from else {"IpRanges": [{"CidrIp": ssh_from}]}
        wanted = {
            ("tcp", 22, 22, ssh_from): {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges},
            ("-1", -1, -1, group): {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
        }
        rules = self.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
        ways_in = [rule for rule in rules["SecurityGroupRules"] if not rule["IsEgress"]]
        open_ways = {_way(rule): rule["SecurityGroupRuleId"] for rule in ways_in}
        if closed := [rule for way, rule in open_ways.items() if way not in wanted]:
            self.ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=closed)
        if missing := [rule for way, rule in wanted.items() if way not in open_ways]:
            self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=missing)
        print(f"security group {GROUP}: {len(missing)} rules added, {len(closed)} removed; ssh from {ssh_from} alone")
        return group

    def _role(self, name: str, may: list[dict[str, Any]]) -> None:
        """A role of instances with this policy, and the instance profile of the same name that hands it to them."""
        trust = _policy([{"Effect": "Allow", "Principal": INSTANCES, "Action": "sts:AssumeRole"}])
        if made := _refused(lambda: self.iam.get_role(RoleName=name), "NoSuchEntity"):
            self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
            self.iam.get_waiter("role_exists").wait(RoleName=name)
        self.iam.update_assume_role_policy(RoleName=name, PolicyDocument=trust)
        self.iam.put_role_policy(RoleName=name, PolicyName=GROUP, PolicyDocument=_policy(may))
        if _refused(lambda: self.iam.get_instance_profile(InstanceProfileName=name), "NoSuchEntity"):
            self.iam.create_instance_profile(InstanceProfileName=name)
            self.iam.get_waiter("instance_profile_exists").wait(InstanceProfileName=name)
        if not self.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
            self.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        print(f"role and instance profile {name}: {'made' if made else 'there already'}, policy written")

    def _may_store(self, bucket: str) -> list[dict[str, Any]]:
        there = f"arn:{self.partition}:s3:::{bucket}"
        return [
            _allow(["s3:ListBucket"], there),
            _allow(
                ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], f"{there}/{FOLDER}/*"
            ),
        ]

    def _may_start_workers(self, cluster: str, group: str) -> list[dict[str, Any]]:
        """Start instances that bear the cluster's tag from the first, and tag and end those that bear it."""
        ec2 = f"arn:{self.partition}:ec2:{self.region}:{self.id}"
        instances, parts = f"{ec2}:instance/*", ("subnet", "network-interface", "volume", "key-pair")
        needed = [f"{ec2}:{kind}/*" for kind in (*parts, "spot-instances-request")]
        needed += [f"{ec2}:security-group/{group}", f"arn:{self.partition}:ec2:{self.region}::image/*"]
        own = {"StringEquals": {f"aws:ResourceTag/{CLUSTER_TAG}": cluster}}
        new = {"StringEquals": {f"aws:RequestTag/{CLUSTER_TAG}": cluster}}
        starting = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
        to_instances = {"StringEquals": {"iam:PassedToService": INSTANCES["Service"]}}
        return [
            _allow(["ec2:DescribeInstances"], "*"),  # knows no narrower resource
            _allow(["ec2:RunInstances"], needed),
            _allow(["ec2:RunInstances"], instances, new),
            _allow(["ec2:CreateTags"], [instances, f"{ec2}:volume/*"], starting),
            _allow(["ec2:CreateTags", "ec2:TerminateInstances"], instances, own),
            _allow(["iam:PassRole"], f"arn:{self.partition}:iam::{self.id}:role/{WORKER}", to_instances),
        ]

    def _spot(self) -> None:
        """AWS's own role for spot instances, which only a person's first request would make."""
        taken = ("InvalidInput", "EntityAlreadyExists")  # it is there
        _refused(lambda: self.iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com"), *taken)

    def _default_vpc(self) -> str:
        found = self.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not found:
            raise ValueError(f"{self.region} has no default VPC: aws ec2 create-default-vpc --region {self.region}")
        return str(found[0]["VpcId"])

    def _zones(self, vpc: str, types: set[str]) -> list[str]:
        """Those with a default subnet that offer all instance types."""
        where = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "default-for-az", "Values": ["true"]}]
        zones = {subnet["AvailabilityZone"] for subnet in self.ec2.describe_subnets(Filters=where)["Subnets"]}
        for kind in types:
            asked = {"LocationType": "availability-zone", "Filters": [{"Name": "instance-type", "Values": [kind]}]}
            offers = self.ec2.describe_instance_type_offerings(**asked)["InstanceTypeOfferings"]
            zones &= {offer["Location"] for offer in offers}
        if not zones:
            raise ValueError(f"no zone of {self.region} offers {' and '.join(sorted(types))}; see cluster.yaml")
        return sorted(zones)

    def _image(self) -> str | None:
        """None where AWS has none under that name."""
        known = self.ssm.get_parameters(Names=[IMAGE])["Parameters"]
        return str(known[0]["Value"]) if known else None


def _network(text: str) -> str:
    """ValueError for what is no network, or everybody's."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"--ssh-from must be a network as 203.0.113.7/32: {error}") from error
    if network.prefixlen == 0:
        raise ValueError(f"--ssh-from {text} lets everybody knock: name your own address, as 203.0.113.7/32")
    return str(network)


def _refused(request: Callable[[], Any], *codes: str) -> str | None:
    """The one of these codes with which AWS refuses the request; None where it does not."""
    from botocore.exceptions import ClientError

    try:
        request()
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise
        return str(error.response["Error"]["Code"])
    return None


def _way(rule: dict[str, Any]) -> tuple[Any, ...]:
    """What a rule lets in."""
    source = rule.get("CidrIpv4") or rule.get("CidrIpv6") or rule.get("ReferencedGroupInfo", {}).get("GroupId")
    return rule["IpProtocol"], rule["FromPort"], rule["ToPort"], source


def _allow(actions: list[str], resources: str | list[str], condition: dict[str, Any] | None = None) -> dict[str, Any]:
    allowed: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return allowed if condition is None else {**allowed, "Condition": condition}


def _policy(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


if __name__ == "__main__":
    run_command(main)

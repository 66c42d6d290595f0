"""`ray up` on AWS: each node_config against botocore's own model of the request that starts an instance, and what keeps
the account's instances, disks and keys to itself."""

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from rrd_search.cluster_files.findings import MANY, TYPES, nearest, one_of, place_of, shown, unknown, with_hint

if TYPE_CHECKING:
    from botocore.model import Shape

FIELDS = frozenset({"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair"})
FIELDS |= {"security_group", "cloudwatch", "aws_credentials"}
KINDS = {
    "string": ("string", (str,)),
    "integer": ("integer", (int,)),
    "long": ("integer", (int,)),
    "boolean": ("boolean", (bool,)),
    "double": ("number", (int, float)),
    "float": ("number", (int, float)),
}
IDS = {"ImageId": "ami", "SecurityGroupIds": "sg", "SubnetIds": "subnet"}
NEWER = "; what is newer than botocore comes with pip install --upgrade boto3"
Node = dict[str, Any]


def problems(document: dict[str, Any]) -> Iterator[str]:
    yield from _provider(document["provider"])
    yield from _node_types(document)
    yield from _profiles(document)
    for name, kind in document.get("available_node_types", {}).items():
        place, node = place_of([name, "node_config"], "available_node_types"), dict(kind["node_config"])
        yield from _ids(node, place)
        node.pop("SubnetIds", None)  # Ray's own field
        wrong = [*against(run_instances(), node, place)]
        yield from wrong
        if not wrong:
            yield from _node(node, place, name == document.get("head_node_type"))
            yield from _ssh_key(document, node, place)


def told(document: dict[str, Any]) -> str:
    types = document["available_node_types"]
    head = types[document["head_node_type"]]["node_config"].get("InstanceType", "")
    workers = []
    for name, kind in types.items():
        if name != document["head_node_type"]:
            spot = ", spot" if _is_spot(kind["node_config"]) else ""
            least, most = kind.get("min_workers", 0), kind.get("max_workers", document.get("max_workers", 2))
            workers.append(f"{name} {least} to {most} ({kind['node_config'].get('InstanceType', '')}{spot})")
    return f"AWS in {document['provider']['region']}: head {head}; {', '.join(workers) or 'no workers'}"


def _provider(provider: dict[str, Any]) -> Iterator[str]:
    if "aws_credentials" in provider:
        yield "provider.aws_credentials: no secrets in this file; keys come from your AWS profile and the nodes' roles"
    yield from (unknown("provider", name, FIELDS) for name in provider if name not in FIELDS)
    region = provider.get("region")
    if region not in regions():
        found = "is missing" if region is None else f"{region!r} is none that botocore knows"
        yield with_hint(f"provider.region {found}", nearest(region, regions()) if region else "such as us-west-2")
        region = ""
    for zone in str(provider.get("availability_zone") or region).split(","):
        if not zone.strip().startswith(str(region)):
            yield f"provider.availability_zone: {zone.strip()} is not in the region {region}"
    if provider.get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes must be false: stopped instances keep their disks, which go on costing"


def _node_types(document: dict[str, Any]) -> Iterator[str]:
    types, most = document.get("available_node_types"), document.get("max_workers")
    if not types:
        yield "available_node_types is missing; Ray's own have an image of 2018 and a group open to the world"
        return
    head = document.get("head_node_type")
    if head not in types:
        found = "is missing" if head is None else f"{head!r} is none of available_node_types"
        yield with_hint(f"head_node_type {found}", nearest(head, types, told="there"))
    if most is None:
        yield "max_workers is missing; Ray's own is 2, of all types together"
    for name, kind in types.items():
        place = place_of([name], "available_node_types")
        low, high = kind.get("min_workers", 0), kind.get("max_workers")
        if high is not None and low > high:
            yield f"{place}: min_workers {low} is more than its max_workers {high}"
        if most is not None and max(low, high or 0) > most:
            yield f"{place}: {max(low, high or 0)} workers are more than max_workers of the file, {most}"


def _node(node: Node, place: str, head: bool) -> Iterator[str]:
    if not node.get("ImageId"):
        yield f"{place}.ImageId is missing; Ray's own image is Ubuntu 18.04, which gets no updates"
    if not node.get("InstanceType"):
        yield f"{place}.InstanceType is missing"
    if not node.get("IamInstanceProfile"):
        own = "Ray's own role may do everything with EC2 and S3" if head else "its role lets trials reach the storage"
        yield f"{place}.IamInstanceProfile is missing; {own}"
    interfaces = node.get("NetworkInterfaces", [])
    if not node.get("SecurityGroupIds") and not (interfaces and all(each.get("Groups") for each in interfaces)):
        yield f"{place}.SecurityGroupIds is missing; Ray's own group lets in ssh from everywhere"
    if "SubnetId" in node:
        yield f"{place}.SubnetId: Ray puts its own in its place; give SubnetIds, a list"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield f"{place}.MetadataOptions.HttpTokens must be required (IMDSv2); else forged requests get its role"
    if head and _is_spot(node):
        yield f"{place}.InstanceMarketOptions: the head must not be a spot instance; the search ends with it"
    disks = [(index, disk["Ebs"]) for index, disk in enumerate(node.get("BlockDeviceMappings", [])) if "Ebs" in disk]
    if not disks:
        yield f"{place}.BlockDeviceMappings must have an Ebs with Encrypted: true; the image's own disk may not be"
    for index, disk in disks:
        if disk.get("Encrypted") is not True:
            yield f"{place_of(['BlockDeviceMappings', index, 'Ebs'], place)}.Encrypted must be true"


def _profiles(document: dict[str, Any]) -> Iterator[str]:
    head = document.get("head_node_type")
    given = {
        name: kind["node_config"].get("IamInstanceProfile")
        for name, kind in document.get("available_node_types", {}).items()
    }
    for name, profile in given.items():
        if name != head and profile and profile == given.get(head):
            place = place_of([name, "node_config", "IamInstanceProfile"], "available_node_types")
            yield f"{place} is the head's, which may start instances; workers have one of their own"


def _ids(node: Node, place: str) -> Iterator[str]:
    if not isinstance(node.get("SubnetIds", []), list):
        yield f"{place}.SubnetIds must be a list, got {shown(node['SubnetIds'])}"
        return
    for name, prefix in IDS.items():
        given = node.get(name) or []
        for value in given if isinstance(given, list) else [given]:
            if not re.fullmatch(rf"{prefix}-([0-9a-f]{{8}}|[0-9a-f]{{17}})", str(value)):
                yield f"{place}.{name}: {shown(value)} is no id such as {prefix}-0123456789abcdef0"


def _ssh_key(document: dict[str, Any], node: Node, place: str) -> Iterator[str]:
    if "ssh_private_key" in document.get("auth", {}) and not node.get("KeyName") and not node.get("UserData"):
        yield f"{place}.KeyName is missing; with auth.ssh_private_key, name the key pair that it belongs to"


def _is_spot(node: Node) -> bool:
    market = node.get("InstanceMarketOptions")
    return isinstance(market, dict) and market.get("MarketType", "spot") == "spot"


def against(shape: "Shape", value: object, place: str) -> Iterator[str]:
    """What botocore's model of a request has against a part of one."""
    kind = shape.type_name
    if kind == "structure":
        yield from _structure(shape, value, place)
    elif kind == "list":
        if not isinstance(value, list):
            yield f"{place} must be a list, got {shown(value)}"
        for index, part in enumerate(value) if isinstance(value, list) else ():
            yield from against(shape.member, part, place_of([index], place))
    elif kind in KINDS:
        name, types = KINDS[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "boolean"):
            yield f"{place} must be {TYPES[name]}, got {shown(value)}"
        elif kind == "string" and shape.enum and value not in shape.enum:
            yield f"{place}: {one_of(value, shape.enum)}{NEWER if len(shape.enum) > MANY else ''}"


def _structure(shape: "Shape", value: object, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place} must be a mapping, got {shown(value)}"
        return
    for name, part in value.items():
        if name in shape.members:
            yield from against(shape.members[name], part, place_of([name], place))
        else:
            yield unknown(place, name, shape.members)
    counted = ("MinCount", "MaxCount")  # by Ray itself
    missing = (name for name in shape.required_members if name not in value and name not in counted)
    yield from (f"{place_of([name], place)} is missing" for name in missing)


@cache
def run_instances() -> "Shape":
    from botocore.model import ServiceModel

    return ServiceModel(_data("ec2")).operation_model("RunInstances").input_shape


@cache
def regions() -> frozenset[str]:
    return frozenset(name for partition in _data("endpoints")["partitions"] for name in partition["regions"])


def _data(name: str) -> dict[str, Any]:
    try:
        from botocore.loaders import Loader
    except ImportError:
        raise ValueError("files for AWS are checked with botocore, which is missing: make install EXTRAS=aws") from None
    return Loader().load_service_model(name, "service-2") if name == "ec2" else Loader().load_data(name)

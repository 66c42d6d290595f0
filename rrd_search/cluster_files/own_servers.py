"""`ray up` with hosts of one's own (provider type local)."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rrd_search.cluster_files.commands import option, ray_starts
from rrd_search.cluster_files.findings import place_of, shown, unknown

FIELDS = ("type", "head_ip", "worker_ips", "external_head_ip")


def problems(document: dict[str, Any]) -> Iterator[str]:
    provider = document["provider"]
    yield from (unknown("provider", name, FIELDS) for name in provider if name not in FIELDS)
    for name in ("available_node_types", "head_node_type", "head_node", "worker_nodes"):
        if name in document:
            yield f"{name} is for clouds; hosts of your own are listed in provider.worker_ips"
    if provider.get("worker_ips") == []:
        yield "provider.worker_ips is empty; on one server alone, run the search there, without `ray up`"
        return
    if missing := [name for name in ("head_ip", "worker_ips") if not provider.get(name)]:
        yield f"provider: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        return
    yield from _addresses(provider)
    count = len(provider["worker_ips"])
    for name in ("min_workers", "max_workers"):
        if document.get(name, count) != count:
            yield f"{name} must be {count}, as many as there are provider.worker_ips, got {document[name]}"
    yield from _head(document)


def told(document: dict[str, Any]) -> str:
    count = len(document["provider"]["worker_ips"])
    return f"own servers: head {document['provider']['head_ip']} and {count} {'worker' if count == 1 else 'workers'}"


def _addresses(provider: dict[str, Any]) -> Iterator[str]:
    head, workers = provider["head_ip"], provider["worker_ips"]
    named = {"provider.head_ip": head}
    named |= {place_of([index], "provider.worker_ips"): worker for index, worker in enumerate(workers)}
    for place, address in named.items():
        if not isinstance(address, str) or not re.fullmatch(r"[\w.:-]+", address):
            yield f"{place} must be an address or a host name, got {shown(address)}"
        elif re.fullmatch(r"[\d.]+", address) and not _is_address(address):
            yield f"{place}: {address} is no IP address"
        elif re.fullmatch(r"[\w.-]+:\d+", address):
            yield f"{place}: {address} has a port; give the address alone, ssh finds its port in ~/.ssh/config"
        elif place == "provider.head_ip" and _is_loopback(address):
            yield f"{place}: {address} is what every host calls itself; give the address at which the workers reach it"
        elif place != "provider.head_ip" and address == head:
            yield f"{place}: {address} is the head_ip; the head runs no second node, so list other hosts only"
    twice = [worker for worker, times in Counter(map(str, workers)).items() if times > 1]
    if twice:
        yield f"provider.worker_ips: {', '.join(twice)} {'is' if len(twice) == 1 else 'are'} there twice"


def _head(document: dict[str, Any]) -> Iterator[str]:
    head = document["provider"]["head_ip"]
    for index, text in enumerate(document.get("head_start_ray_commands", [])):
        for start in ray_starts(text, head=True):
            address = option(start, "node-ip-address")
            if address != head:
                place = place_of([index], "head_start_ray_commands")
                got = f"got {address}" if address else "it is missing"
                yield f"{place}: --node-ip-address must be {head}, the provider.head_ip; {got}"


def _is_loopback(text: str) -> bool:
    return text == "localhost" or (_is_address(text) and ipaddress.ip_address(text).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

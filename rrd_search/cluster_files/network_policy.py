"""The NetworkPolicy beside a RayJob or RayCluster: it covers all pods of the cluster, lets in the pod that submits the
job, and not everybody."""

from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
ANY_ADDRESS = ("0.0.0.0/0", "::/0")


def problems(policies: list[Manifest], owner: Manifest) -> Iterator[str]:
    name, namespace = owner["metadata"]["name"], owner["metadata"].get("namespace")
    pods = {
        node_type: {"ray.io/cluster": "*", "ray.io/is-ray-node": "yes", "ray.io/node-type": node_type}
        for node_type in ("head", "worker")
    }
    holding = [
        policy
        for policy in policies
        if policy["metadata"].get("namespace") == namespace
        and "Ingress" in policy["spec"].get("policyTypes", ["Ingress"])
        and all(selects(policy["spec"]["podSelector"], labels) for labels in pods.values())
    ]
    if not holding:
        found = "there is none" if not policies else "none here has policyTypes Ingress and selects them"
        yield (
            f"NetworkPolicy: {owner['kind']} {name} needs one for all its pods, head and workers, which listen on all "
            f"addresses; {found}"
        )
        return
    for policy in policies:
        yield from _open_to_all(policy["spec"].get("ingress") or [])
    mode = owner["spec"].get("submissionMode", "K8sJobMode")
    if owner["kind"] == "RayJob" and mode == "K8sJobMode" and not any(_lets_job_in(policy, name) for policy in holding):
        yield f"NetworkPolicy.spec.ingress must let in the pod that submits the job: podSelector with job-name: {name}"


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """As Kubernetes does it; the label value * is any."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) not in (value, "*"):
            return False
    for expression in selector.get("matchExpressions") or []:
        held, values = labels.get(expression["key"]), expression.get("values") or []
        match expression["operator"]:
            case "Exists" if held is None:
                return False
            case "DoesNotExist" if held is not None:
                return False
            case "In" if held not in (*values, "*"):
                return False
            case "NotIn" if held in values:
                return False
    return True


def _lets_job_in(policy: Manifest, name: str) -> bool:
    labels = {"job-name": name, "batch.kubernetes.io/job-name": name}
    peers = [peer for rule in policy["spec"].get("ingress") or [] for peer in rule.get("from") or []]
    return any("podSelector" in peer and selects(peer["podSelector"] or {}, labels) for peer in peers)


def _open_to_all(rules: list[Manifest]) -> Iterator[str]:
    for number, rule in enumerate(rules):
        place = f"NetworkPolicy.spec.ingress[{number}]"
        if not rule.get("from"):
            yield f"{place}.from is missing, which lets everybody in"
        for index, peer in enumerate(rule.get("from") or []):
            here = f"{place}.from[{index}]"
            if peer.get("ipBlock", {}).get("cidr") in ANY_ADDRESS:
                yield f"{here}.ipBlock.cidr: {peer['ipBlock']['cidr']} lets everybody in"
            if peer.get("namespaceSelector") == {} and not peer.get("podSelector"):
                yield f"{here}.namespaceSelector: an empty one lets in every pod of every namespace"

"""Manifests for the KubeRay operator: a schema made of the operator's own CRDs, what the operator refuses later, and
what the project asks: token mode, pinned images, and a NetworkPolicy, as Ray listens on all addresses of a pod."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rrd_search.cluster_files import network_policy
from rrd_search.cluster_files.commands import (
    is_credential,
    job_problems,
    network_problems,
    ray_start_options,
    storage_problems,
)
from rrd_search.cluster_files.findings import nearest, schema_problems, shown, unknown, with_hint

LONGEST_NAME = 47  # of a RayJob; the operator makes longer names of it
OLDEST = (2, 52)  # Ray with token mode
GPU = "nvidia.com/gpu"
# Kubernetes' own, which may go along and are not looked into
PLAIN = frozenset({"ConfigMap", "LimitRange", "Namespace", "PersistentVolume", "PersistentVolumeClaim", "Role"})
PLAIN |= {"ResourceQuota", "RoleBinding", "ServiceAccount"}
REFUSED = {
    "Secret": "no secrets in this file; make them with kubectl create secret, and name them in valueFrom.secretKeyRef",
    "Ingress": "it publishes the cluster; people come through kubectl port-forward",
    "Service": "the operator makes the head's; people come through kubectl port-forward",
}
Manifest = dict[str, Any]


def problems(documents: list[Manifest]) -> list[str]:
    """Ordered by weight: manifests of another shape are not looked into."""
    if wrong := [text for document in documents for text in _shape(document)]:
        return wrong
    owners = [document for document in documents if document["kind"] in ("RayJob", "RayCluster")]
    if not owners:
        return ["there is no RayJob or RayCluster in it"]
    wrong = []
    for owner in owners:
        policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
        wrong += [*_owner(owner), *network_policy.problems(policies, owner)]
    return list(dict.fromkeys(wrong))


def told(documents: list[Manifest]) -> str:
    parts = []
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind in ("RayJob", "RayCluster"):
            groups = _cluster(document).get("workerGroupSpecs", [])
            sizes = (f"{each['groupName']} {each.get('minReplicas', 0)} to {each['maxReplicas']}" for each in groups)
            parts.append(f"{kind} {name}: {', '.join(sizes)}")
        else:
            parts.append(f"{kind} {name}" + (", not looked into" if kind in PLAIN else ""))
    return f"KubeRay, {'; '.join(parts)}"


@cache
def schemas() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(Path(__file__).with_name("kuberay.json").read_text())
    return {kind: {**schema, "definitions": whole["definitions"]} for kind, schema in whole["kinds"].items()}


def _shape(document: Manifest) -> Iterator[str]:
    kind, version = document.get("kind"), document.get("apiVersion")
    known = {name.split()[1]: name.split()[0] for name in schemas()}
    if not isinstance(kind, str | None):
        yield f"kind must be a text, got {shown(kind)}"
    elif kind in REFUSED:
        yield f"kind: {kind}: {REFUSED[kind]}"
    elif kind in PLAIN:
        named = isinstance(document.get("metadata"), dict) and document["metadata"].get("name")
        missing = {"apiVersion": version, "metadata.name": named}
        yield from (f"{kind}.{name} is missing" for name, value in missing.items() if not value)
    elif kind not in known:
        told = "kind is missing" if kind is None else f"kind: {shown(kind)} is not known here"
        yield with_hint(told, nearest(kind, [*known, *PLAIN] if kind else known, told="known"))
    elif version != known[kind]:
        yield f"{kind}.apiVersion must be {known[kind]}, got {shown(version)}"
    else:
        yield from schema_problems(document, schemas()[f"{version} {kind}"], kind)
        if isinstance(document.get("metadata"), dict) and not document["metadata"].get("name"):
            yield f"{kind}.metadata.name is missing"


def _owner(document: Manifest) -> Iterator[str]:
    kind, name, spec = document["kind"], document["metadata"]["name"], document["spec"]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > LONGEST_NAME:
        yield f"{kind}.metadata.name must be small letters, digits and -, at most {LONGEST_NAME}, got {shown(name)}"
    place = f"{kind}.spec"
    if kind == "RayJob":
        if not re.search(r"\bpython3?\s+-m\s+rrd_search\.tune\b", spec.get("entrypoint", "")):
            yield f"{place}.entrypoint must call python -m rrd_search.tune, got {shown(spec.get('entrypoint'))}"
        yield from network_problems(spec.get("entrypoint", ""), f"{place}.entrypoint")
        place += ".rayClusterSpec"
        if "rayClusterSpec" not in spec:
            yield f"{place} is missing"
            return
    yield from _cluster_problems(_cluster(document), place)
    if kind == "RayJob":
        yield from _storage(spec, f"{place}.headGroupSpec.template.spec.containers[0].env")


def _storage(spec: Manifest, place: str) -> Iterator[str]:
    containers = spec["rayClusterSpec"]["headGroupSpec"]["template"].get("spec", {}).get("containers") or [{}]
    given = {variable["name"]: variable.get("value") for variable in containers[0].get("env") or []}
    if "RRD_STORAGE" not in given and "--storage" not in spec.get("entrypoint", ""):
        yield f"{place}: RRD_STORAGE is missing; what lies on a pod's own disk goes with it"
    elif value := given.get("RRD_STORAGE"):
        yield from storage_problems(value, f"{place}: RRD_STORAGE")


def _cluster(document: Manifest) -> Manifest:
    spec: Manifest = document["spec"]
    return spec.get("rayClusterSpec", {}) if document["kind"] == "RayJob" else spec


def _cluster_problems(spec: Manifest, place: str) -> Iterator[str]:
    mode = spec.get("authOptions", {}).get("mode")
    if mode != "token":
        yield f"{place}.authOptions.mode must be token, got {shown(mode)}; else whoever reaches a pod runs programs"
    version = str(spec.get("rayVersion", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers or tuple(map(int, numbers.groups())) < OLDEST:
        yield f"{place}.rayVersion must be the image's, 2.52.0 or newer for token mode, got {shown(version or None)}"
    yield from _head(spec["headGroupSpec"], f"{place}.headGroupSpec")
    groups = spec.get("workerGroupSpecs") or []
    if not groups:
        yield f"{place}.workerGroupSpecs is missing; the head runs no trials"
    scales = spec.get("enableInTreeAutoscaling") is True
    for index, group in enumerate(groups):
        yield from _workers(group, f"{place}.workerGroupSpecs[{index}]", scales)
    if scales and spec.get("autoscalerOptions", {}).get("version") == "v2":
        named = {"headGroupSpec": spec["headGroupSpec"]}
        named |= {f"workerGroupSpecs[{index}]": group for index, group in enumerate(groups)}
        for name, group in named.items():
            if group["template"].get("spec", {}).get("restartPolicy", "Never") != "Never":
                yield f"{place}.{name}.template.spec.restartPolicy must be Never with autoscaler v2"


def _head(group: Manifest, place: str) -> Iterator[str]:
    service = group.get("headService", {}).get("spec", {}).get("type", group.get("serviceType", "ClusterIP"))
    if service != "ClusterIP":
        yield f"{place}.serviceType must be ClusterIP, got {service}; people come through kubectl port-forward"
    if group.get("enableIngress"):
        yield f"{place}.enableIngress must not be true; people come through kubectl port-forward"
    yield from _group(group, place)


def _workers(group: Manifest, place: str, scales: bool) -> Iterator[str]:
    low, high = group.get("minReplicas", 0), group["maxReplicas"]
    count = group.get("replicas", low)
    if low > high:
        yield f"{place}: minReplicas {low} is more than maxReplicas {high}"
    elif not low <= count <= high:
        yield f"{place}.replicas must be from minReplicas {low} to maxReplicas {high}, got {count}"
    if count == 0 and not scales:
        yield f"{place}.replicas is 0 and enableInTreeAutoscaling is not true: no worker would ever start"
    yield from _group(group, place)


def _group(group: Manifest, place: str) -> Iterator[str]:
    for name in group.get("rayStartParams") or {}:
        if name == "dashboard-host":
            yield (
                f"{place}.rayStartParams.dashboard-host must not be given; the operator sets what its job needs, the "
                f"NetworkPolicy keeps others away"
            )
        elif name not in ray_start_options():
            yield unknown(f"{place}.rayStartParams", name, ray_start_options(), "option of ray start")
    pod, place = group["template"].get("spec", {}), f"{place}.template.spec"
    if pod.get("hostNetwork"):
        yield f"{place}.hostNetwork must not be true; a NetworkPolicy does not hold there"
    if not pod.get("containers"):
        yield f"{place}.containers is missing"
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(pod.get(kind) or []):
            yield from _container(container, f"{place}.{kind}[{index}]")


def _container(container: Manifest, place: str) -> Iterator[str]:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"{place}.image must be pinned by a digest (NAME@sha256:...) or by a tag that stays, got {shown(image)}"
    if container.get("securityContext", {}).get("privileged"):
        yield f"{place}.securityContext.privileged must not be true; trials need no rights on the node"
    for index, variable in enumerate(container.get("env") or []):
        name, value = variable["name"], variable.get("value")
        if value and is_credential(name):
            yield f"{place}.env[{index}]: no secrets in this file; {name} comes with valueFrom.secretKeyRef"
        elif value:
            yield from network_problems(f"{name}={value}", f"{place}.env[{index}].value")
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    yield from network_problems(" ".join(words), f"{place}.command")
    given = [f"{variable['name']}={variable.get('value', '')}" for variable in container.get("env") or []]
    yield from job_problems("\n".join([" ".join(words), *given]), f"{place}.env")
    yield from _gpus(container.get("resources", {}), f"{place}.resources")


def _gpus(resources: Manifest, place: str) -> Iterator[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name in amounts:
            if name.startswith("nvidia.com/") and name != GPU and not re.match(r"nvidia\.com/(gpu\.shared|mig-)", name):
                yield f"{place}.{kind}.{name}: no such resource; did you mean {GPU}?"
    for name in {*limits, *requests}:
        if "/" in name and str(limits.get(name)) != str(requests.get(name, limits.get(name))):
            got = f"{shown(limits.get(name))} and {shown(requests[name])}"
            yield f"{place}: {name} must be the same in limits and in requests, got {got}"

"""Makes rrd_search/cluster_files/kuberay.json, what `make cluster-check` knows of Kubernetes, from the operator's CRDs:

    python cluster/kuberay_schema.py --source "KubeRay 1.7.0" rayjobs.yaml rayclusters.yaml

The CRDs lie in helm-chart/kuberay-operator/crds of github.com/ray-project/kuberay. Kept are names, types, enums,
patterns and what is required; parts that occur more than once are kept once.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

OUTPUT = Path(__file__).parents[1] / "rrd_search" / "cluster_files" / "kuberay.json"
KEPT = ("type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
SHORT = 50  # characters; below, a part is written out wherever it occurs
ANY = {"type": "object"}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def main() -> None:
    parser = argparse.ArgumentParser(description="From KubeRay's CRDs to the schema that cluster-check reads.")
    parser.add_argument("--source", required=True, help="which release the CRDs are of")
    parser.add_argument("crds", nargs="+", type=Path)
    options = parser.parse_args()
    kinds: dict[str, Any] = {"networking.k8s.io/v1 NetworkPolicy": network_policy()}
    for path in options.crds:
        crd = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for version in crd["spec"]["versions"]:
            if version["name"] == "v1":
                kinds[f"ray.io/v1 {crd['spec']['names']['kind']}"] = manifest(version["schema"]["openAPIV3Schema"])
    kinds, definitions = share(kinds)
    source = f"{options.source}, Apache License 2.0; made by cluster/kuberay_schema.py"
    OUTPUT.write_text(as_text({"source": source, "kinds": kinds, "definitions": definitions}))
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes, {', '.join(kinds)}")


def manifest(schema: dict[str, Any]) -> dict[str, Any]:
    """A kind's whole document. What its creator does not write is left out; of the metadata, what a file may hold."""
    whole = compact(schema)
    whole["properties"].pop("status", None)
    whole["properties"]["metadata"] = metadata()
    whole["required"] = sorted({*whole.get("required", []), "apiVersion", "kind", "metadata", "spec"})
    return whole


def compact(schema: dict[str, Any]) -> dict[str, Any]:
    """As JSON schema, strict: an unknown field is an error, as for `kubectl apply --validate=strict`."""
    kept = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    if "items" in schema:
        kept["items"] = compact(schema["items"])
    more = schema.get("additionalProperties")
    if "properties" in schema:
        kept["properties"] = {name: compact(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            more = more or False
    if more is not None:
        kept["additionalProperties"] = compact(more) if isinstance(more, dict) else more
    if schema.get("nullable") and isinstance(kept.get("type"), str):
        kept["type"] = [kept["type"], "null"]
    return kept


def metadata() -> dict[str, Any]:
    strings = ("name", "generateName", "namespace")
    return fields(
        {**{name: {"type": "string"} for name in strings}, "labels": STRINGS, "annotations": STRINGS},
        finalizers={"type": "array", "items": {"type": "string"}},
        ownerReferences={"type": "array", "items": ANY},
    )


def network_policy() -> dict[str, Any]:
    """Of networking.k8s.io/v1, which is Kubernetes' own and in no CRD."""
    text = {"type": "string"}
    texts = {"type": "array", "items": text}
    operator = {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]}
    expression = fields({"key": text, "operator": operator, "values": texts}, required=["key", "operator"])
    selector = fields({"matchLabels": STRINGS, "matchExpressions": {"type": "array", "items": expression}})
    block = fields({"cidr": text, "except": texts}, required=["cidr"])
    peer = fields({"podSelector": selector, "namespaceSelector": selector, "ipBlock": block})
    protocol = {"type": "string", "enum": ["TCP", "UDP", "SCTP"]}
    port = fields({"protocol": protocol, "port": {"type": ["integer", "string"]}, "endPort": {"type": "integer"}})
    ports, peers = {"type": "array", "items": port}, {"type": "array", "items": peer}
    directions = {"type": "array", "items": {"type": "string", "enum": ["Ingress", "Egress"]}}
    spec = fields(
        {"podSelector": selector, "policyTypes": directions},
        ingress={"type": "array", "items": fields({"from": peers, "ports": ports})},
        egress={"type": "array", "items": fields({"to": peers, "ports": ports})},
        required=["podSelector"],
    )
    whole = {"apiVersion": text, "kind": text, "metadata": metadata(), "spec": spec}
    return fields(whole, required=sorted(whole))


def fields(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**properties, **more}, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def share(kinds: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts that occur more than once become definitions, named after the field that has them."""
    uses: Counter[str] = Counter()
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    definitions: dict[str, Any] = {}

    def count(part: dict[str, Any]) -> None:
        text = json.dumps(part, sort_keys=True)
        uses[text] += 1
        if uses[text] == 1:
            for _, child in parts_of(part):
                count(child)

    def shared(part: dict[str, Any], field: str) -> dict[str, Any]:
        text = json.dumps(part, sort_keys=True)
        if uses[text] < 2 or len(text) < SHORT:
            return {**part, **rebuilt(part, field)}
        if text not in names:
            taken[field] += 1
            names[text] = field if taken[field] == 1 else f"{field}-{taken[field]}"
            definitions[names[text]] = {**part, **rebuilt(part, field)}
        return {"$ref": f"#/definitions/{names[text]}"}

    def rebuilt(part: dict[str, Any], field: str) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for key, child in parts_of(part):
            if key[0] == "properties":
                new.setdefault("properties", {})[key[1]] = shared(child, key[1])
            else:
                new[key[0]] = shared(child, field)
        return new

    for schema in kinds.values():
        count(schema)
    return {kind: shared(schema, kind) for kind, schema in kinds.items()}, definitions


def parts_of(schema: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    parts = [(("properties", name), part) for name, part in schema.get("properties", {}).items()]
    return parts + [
        ((key,), schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    ]


def as_text(schema: dict[str, Any]) -> str:
    """JSON with a line for each kind and definition, so that the next release's differences can be read."""
    lines = [f'"source": {json.dumps(schema["source"])}']
    for group in ("kinds", "definitions"):
        entries = (f"{json.dumps(name)}: {packed(part)}" for name, part in sorted(schema[group].items()))
        lines.append(f'"{group}": {{\n' + ",\n".join(entries) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def packed(part: Any) -> str:
    return json.dumps(part, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    main()

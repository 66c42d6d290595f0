"""Which nodes the cluster's autoscaler may still start: as `ray up` left it on the head, or as KubeRay has it."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # written on the head by `ray up`, with what each type holds filled in
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # of a pod
NODE_GROUP = "ray.io/node-group"  # label of a node: its type


@dataclass(frozen=True)
class NodeTypes:
    """The types that workers can be of; ``most`` workers of all types together."""

    holds: dict[str, dict[str, float]]  # what a node of each type holds
    most_of: dict[str, int]
    most: int
    own: int = 0  # servers of one's own beside the head, which do not come and go

    def startable(self, alive: Sequence[str]) -> list[dict[str, float]]:
        """What each node holds that could be started beside those that are alive, of which the types are given."""
        there = Counter(name for name in alive if name in self.holds)
        more = [self.holds[name] for name, most in self.most_of.items() for _ in range(max(0, most - there[name]))]
        return more[: max(0, self.most - sum(there.values()))]


NONE = NodeTypes(holds={}, most_of={}, most=0)


def read_node_types(on_head: bool) -> NodeTypes:
    """Those of the cluster that this process is in; none where nodes do not come and go. ``on_head``: whether it runs
    on the cluster's head."""
    file = BOOTSTRAP.expanduser()
    if on_head and file.is_file():
        return node_types(yaml.safe_load(file.read_text()))
    if os.environ.get("RAY_CLUSTER_NAME") and os.environ.get("KUBERNETES_SERVICE_HOST"):
        from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

        namespace = NAMESPACE.read_text().strip() if NAMESPACE.is_file() else "default"
        return node_types(AutoscalingConfigProducer(os.environ["RAY_CLUSTER_NAME"], namespace)())
    return NONE


def node_types(config: dict[str, Any]) -> NodeTypes:
    """Of an autoscaler's config."""
    workers = {
        name: kind
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type") and kind.get("resources")
    }
    return NodeTypes(
        holds={name: dict(kind["resources"]) for name, kind in workers.items()},
        most_of={name: int(kind.get("max_workers", 0)) for name, kind in workers.items()},
        most=int(config.get("max_workers", 0)),
        own=int(config.get("max_workers", 0)) if config.get("provider", {}).get("type") == "local" else 0,
    )

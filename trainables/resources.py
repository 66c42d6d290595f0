"""What a trial takes of its nodes. Every process of a search reads this file first: it imports no more than it must."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory

WAITING_BYTES = 2**20  # a process that only waits; Ray counts this, and limits nothing by it
OF_NODE = 0.0001  # of the 1.0 that Ray gives every node of its own name: the smallest share


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Of one trial: its workers, and what each of them takes. Without GPUs, a worker has one thread a CPU."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0


def placement(config: dict[str, Any]) -> PlacementGroupFactory:
    """What Tune asks for before it starts a trial. The workers of a TorchTrainer bring their own placement group; the
    trial that waits for them takes no CPU, and Tune wants it to take something. It waits on the driver's node: on
    another one it could be lost together with the waiting processes of all other trials, however far away their
    workers are."""
    from ray.tune import PlacementGroupFactory  # takes a second; who asks for resources has it

    room = Resources(**config["room"])
    if room.workers == 1:
        return PlacementGroupFactory([{"CPU": float(room.cpus_per_worker), "GPU": float(room.gpus_per_worker)}])
    here = f"node:{ray.util.get_node_ip_address()}"
    return PlacementGroupFactory([{"memory": float(WAITING_BYTES), here: OF_NODE}])

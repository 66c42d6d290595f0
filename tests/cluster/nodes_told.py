"""What the nodes of the running cluster are, as JSON, once they are so many: nodes_told.py NUMBER, on the head. Each
tells where its code comes from."""

import json
import logging
import sys
import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def told() -> dict[str, str]:
    import os
    import sys

    import rrd_search
    import trainables

    files = {"rrd_search": rrd_search.__file__, "trainables": trainables.__file__, "python": sys.executable}
    return {**files, "storage": os.environ.get("RRD_STORAGE", ""), "host": os.uname().nodename}


def alive() -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]


ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
while len(alive()) != int(sys.argv[1]):
    time.sleep(0.5)
asked = {
    node["NodeManagerAddress"]: ray.remote(told)
    .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
    .remote()
    for node in alive()
}
print(json.dumps({address: ray.get(answer, timeout=120) for address, answer in asked.items()}))

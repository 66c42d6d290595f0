"""python -m trainables.preflight: one of several students that train on a device at once, measured for a few seconds.

Driven by ``rrd_search.packing`` through its standard input and output: says ``ready`` when it is warm, trains from the
line ``go`` on, and ends with a line of JSON.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainables import cpu
from trainables.config import TrialConfig
from trainables.places import Places
from trainables.teacher import no_teacher
from trainables.worker import Task, Worker

WARM_STEPS = 10
LOOK_STEPS = 5  # between two looks at the clock, which wait for the device


def main() -> None:
    parser = argparse.ArgumentParser("python -m trainables.preflight")
    parser.add_argument("config", type=Path, help="a TrialConfig as YAML, its teacher in the storage")
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    cpu.settle(1, device)
    config = TrialConfig.from_yaml(options.config)
    places = Places(storage=options.storage, data_root=options.data_root)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Task(config=config, places=places, folder=Path(folder)), device)
    steps = _steps(worker)
    _take(steps, WARM_STEPS, device)
    print("ready", flush=True)
    sys.stdin.readline()
    started, taken = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < options.seconds:
        taken += _take(steps, LOOK_STEPS, device)
    memory = _memory(device)
    print(json.dumps({"images_per_second": taken * config.batch_size / spent, **memory}), flush=True)


def _steps(worker: Worker) -> Iterator[object]:
    """Training steps of the first epoch, over and over; its teacher's table is computed on the way, for the search."""
    batches = worker.materials.batches
    teacher = worker.teacher.epoch(1, 1) if worker.teacher else no_teacher
    worker.training.distiller.train()
    while True:
        for batch in batches.epoch(1, worker.config.batch_size):
            yield worker.training.step(batch, teacher)


def _take(steps: Iterator[object], count: int, device: torch.device) -> int:
    for _ in itertools.islice(steps, count):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count


def _memory(device: torch.device) -> dict[str, int]:
    """Bytes in use on the device, by all of its processes, and its size."""
    if device.type == "cpu":
        return {"used_bytes": 0, "device_bytes": 0}
    free, size = torch.cuda.mem_get_info()
    return {"used_bytes": size - free, "device_bytes": size}


if __name__ == "__main__":
    main()

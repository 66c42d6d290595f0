"""Read by every Python process of a host that is said to have a GPU and has none: a trial that gets one takes the CPU.

RRD_EPOCH_SECONDS, where set, is what an epoch takes at least, so that trials last without keeping the machine busy.
RRD_WITNESS names a folder for the witness of the fault suite, which writes there what a trial really does.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

WITNESS = Path(__file__).parent.parent.parent / "faults" / "witness" / "sitecustomize.py"


class NoGpu(importlib.abc.MetaPathFinder):
    """Changes ``trainables.trial`` as it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "trainables.trial":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_change(module: ModuleType) -> None:
                load(module)
                _change(module)

            spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def _change(module: Any) -> None:
    begin, next_epoch = module.Inline.__init__, module.Inline.next_epoch

    def begin_on_cpu(this: Any, task: Any, resources: Any, *rest: Any) -> None:
        begin(this, task, dataclasses.replace(resources, gpus_per_worker=0), *rest)

    def next_epoch_in_time(this: Any) -> Any:
        due = time.monotonic() + float(os.environ.get("RRD_EPOCH_SECONDS", 0))
        report = next_epoch(this)
        if report is not None and not this.worker.finished:
            time.sleep(max(0.0, due - time.monotonic()))
        return report

    module.Inline.__init__, module.Inline.next_epoch = begin_on_cpu, next_epoch_in_time


sys.meta_path.insert(0, NoGpu())
if "RRD_WITNESS" in os.environ:
    found = importlib.util.spec_from_file_location("witness", WITNESS)
    assert found is not None
    assert found.loader is not None
    found.loader.exec_module(importlib.util.module_from_spec(found))

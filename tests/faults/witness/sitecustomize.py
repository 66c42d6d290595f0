"""Read by every Python process of a search under test: it writes down what a trial really does, and makes it fail where
a test asks for that. The product knows nothing of it.

RRD_WITNESS names a folder. ``witness.jsonl`` there takes a line for each thing that happens to a trial. ``faults.json``
there, if any, lists what is to go wrong: {"at": "Worker.epoch", "trial": "00003", "epoch": 2, "fault": "hang"},
or, for the driver, {"at": "Study.tell", "call": 4, "when": "after", "fault": "kill"}. Each happens once.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

WATCHED = {
    "trainables.worker": ("Worker.epoch", "Worker._epoch", "Worker.write_checkpoint", "Worker.finish"),
    "rrd_search.optuna_searcher": ("Study.propose", "Study.report", "Study.tell"),
    "rrd_search.record": ("Recorder.start_trial", "Recorder.epoch", "Recorder.end_trial", "Recorder.end_search"),
    "rrd_search.students": ("Students.ended",),
    "rrd_search.search_file": ("SearchFile.write",),
}
HANG_SECONDS = 3600


class Witness(importlib.abc.MetaPathFinder):
    """Wraps the watched methods as soon as their module is imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: dict[str, int] = {}
        plan = folder / "faults.json"
        self.faults: list[dict[str, Any]] = json.loads(plan.read_text()) if plan.is_file() else []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_watch(module: ModuleType) -> None:
            load(module)
            for method in WATCHED[name]:
                self._watch(module, method)

        spec.loader.exec_module = load_and_watch  # type: ignore[method-assign]
        return spec

    def _watch(self, module: ModuleType, method: str) -> None:
        owner, _, name = method.partition(".")
        kind = getattr(module, owner, None)
        if kind is None or not hasattr(kind, name):
            return
        original: Callable[..., Any] = getattr(kind, name)

        @functools.wraps(original)
        def watched(this: Any, *arguments: Any, **options: Any) -> Any:
            self.calls[method] = self.calls.get(method, 0) + 1
            trial = _trial_of(this)
            if trial is not None and name == "epoch":
                self.write(kind="begins", trial=trial, epoch=this.training.epoch + 1, rank=this.rank)
            self._strike(method, "before", this, trial)
            before = _checkpoints(this) if trial is not None else set()
            said = original(this, *arguments, **options)
            unwritten = name == "write_checkpoint" and before == _checkpoints(this)  # the disk was full
            if trial is not None and not name.startswith("_") and not unwritten:
                self.write(kind=name, trial=trial, epoch=this.training.epoch, rank=this.rank)
            self._strike(method, "after", this, trial)
            return said

        setattr(kind, name, watched)

    def write(self, **line: Any) -> None:
        """One line, in one system call, so that processes do not mix theirs."""
        text = json.dumps({"time": time.time(), "pid": os.getpid(), **line}) + "\n"
        file = os.open(self.folder / "witness.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, text.encode())
        os.close(file)

    def _strike(self, method: str, when: str, this: Any, trial: str | None) -> None:
        for number, fault in enumerate(self.faults):
            if fault["at"] != method or fault.get("when", "before") != when:
                continue
            if "call" in fault and fault["call"] != self.calls[method]:
                continue
            if "trial" in fault and (trial != fault["trial"] or this.training.epoch + 1 != fault["epoch"]):
                continue
            if self._is_first(number, fault):
                self.write(kind="fault", fault=fault["fault"], trial=trial)
                _happen(fault["fault"], this)

    def _is_first(self, number: int, fault: dict[str, Any]) -> bool:
        """Whether it did not happen yet, in any process; a fault with ``times`` may happen so often."""
        for time_of_it in range(fault.get("times", 1)):
            try:
                os.close(os.open(self.folder / f"fault.{number}.{time_of_it}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


def _trial_of(this: Any) -> str | None:
    """The id of a worker's trial; None for what is no worker."""
    task = getattr(this, "task", None)
    return task.folder.name if task is not None else None


def _checkpoints(worker: Any) -> set[tuple[str, int]]:
    return {(file.name, file.stat().st_mtime_ns) for file in worker.task.folder.glob("checkpoint*")}


def _happen(fault: str, this: Any) -> None:
    if fault == "kill":
        os.kill(os.getpid(), 9)
    elif fault == "hang":
        time.sleep(HANG_SECONDS)
    elif fault == "nan":
        import torch

        with torch.no_grad():
            for parameter in this.training.distiller.student.parameters():
                parameter.fill_(float("nan"))
    elif fault == "out of memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    elif fault == "data":
        raise OSError("the store does not answer")
    else:
        raise AssertionError(f"unknown fault {fault}")


if "RRD_WITNESS" in os.environ:
    sys.meta_path.insert(0, Witness(Path(os.environ["RRD_WITNESS"])))

"""Why a trial did not end by itself, in kinds, and how often it is tried again for each."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError

from trainables.refusal import OUT_OF_MEMORY
from trainables.trial import Leaving

PREEMPTED, HUNG, NODE_LOST, DIED, ERROR = "preempted", "stood still", "node lost", "process died", "error"
DATA = "data error"  # images, teacher, checkpoints or results cannot be read or written there
# Each time from the last checkpoint. What would only come again has no retry: a config or data that cannot be trained,
# a loss that diverged.
RETRIES = {OUT_OF_MEMORY: 1, HUNG: 1, ERROR: 1, DIED: 3, NODE_LOST: 10, DATA: 12}
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 15.0, 600.0  # before data is tried again, each time twice as long: over an hour


@dataclass(frozen=True)
class Failure:
    """``kind`` is one of those of ``RETRIES``, or ``REFUSED``, ``DIVERGED``, ``PREEMPTED``."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class Failures:
    """Of the trials of this process. Preemption counts for nothing, however often."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def retries(self, trial_id: str, failure: Failure) -> bool:
        """Whether the trial is to be tried again; counts it."""
        if failure.kind == PREEMPTED:
            return True
        self._counts[trial_id, failure.kind] += 1
        return self._counts[trial_id, failure.kind] <= RETRIES.get(failure.kind, 0)

    def pause(self, trial_id: str, failure: Failure) -> float:
        """How many seconds the trial waits before it is tried again: a store that is away takes its time."""
        if failure.kind != DATA:
            return 0.0
        return min(PAUSE_SECONDS * 2 ** (self._counts[trial_id, DATA] - 1), LONGEST_PAUSE_SECONDS)


def failure_of(error: Any, hung: bool) -> Failure:
    """Of an error that a trial's actor raised, or that Ray raised in its place. ``hung``: its watchdog ended it."""
    said = str(getattr(error, "cause", None) or error or "").strip().splitlines() or ["no reason is known"]
    if hung:
        return Failure(HUNG, "no batch was done in time; the stack of its process is in its folder")
    if isinstance(error, Leaving) or isinstance(getattr(error, "cause", None), Leaving):
        return Failure(PREEMPTED, said[-1])
    if isinstance(error, OutOfMemoryError):
        return Failure(OUT_OF_MEMORY, said[0])
    if dead := _dead(error):
        if any(one.preempted for one in dead):
            return Failure(PREEMPTED, "its node was taken away")
        lost = any("its node has died" in str(one) for one in dead)  # as Ray says it, which has no class for it
        return Failure(NODE_LOST, "its node died") if lost else Failure(DIED, "its process died")
    data = [one for one in _errors(error) if isinstance(one, OSError)]
    return Failure(DATA, " ".join(str(data[0]).split())) if data else Failure(ERROR, said[-1])


def _dead(error: Any) -> list[RayActorError]:
    """What Ray raised in place of processes of the trial. Of several workers, Ray Train has started others in place of
    the lost ones as often as it may; those that lived tell what they make of the loss, each in its words."""
    return [one for one in _errors(error) if isinstance(one, RayActorError)]


def _errors(error: Any) -> list[Any]:
    """Those of a trial's process, or of its workers."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, WorkerGroupError):
        return [getattr(one, "health_check_failure", one) for one in cause.worker_failures.values()]
    return [error if isinstance(error, RayActorError) else cause]

"""What a trial failed of is read from the errors that Ray raises in its place."""

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rrd_search.failures import DIED, ERROR, NODE_LOST, PREEMPTED, failure_of

DEAD = RayActorError(error_msg="The actor died unexpectedly before finishing this task.")
NODE_DEAD = RayActorError(error_msg="The actor is dead because its node has died. Node Id: 24a3e697")
TAKEN = RayActorError(error_msg="The actor is dead because its node has died.", preempted=True)
BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer")


def lost(error: RayActorError) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DEAD, DIED),
        (NODE_DEAD, NODE_LOST),
        (TAKEN, PREEMPTED),
        (WorkerGroupError("", {0: lost(DEAD), 1: BROKEN}), DIED),
        (WorkerGroupError("", {0: BROKEN, 1: lost(NODE_DEAD)}), NODE_LOST),
        (WorkerGroupError("", {0: lost(TAKEN), 1: lost(DEAD)}), PREEMPTED),
        (WorkerGroupError("", {0: BROKEN, 1: BROKEN}), ERROR),
        (RuntimeError("a bug"), ERROR),
        ("no reason is known", ERROR),
    ],
)
def test_a_lost_node_a_dead_process_and_an_error_are_told_apart(error: Exception | str, kind: str) -> None:
    assert failure_of(error, hung=False).kind == kind
    if isinstance(error, Exception) and not isinstance(error, RayActorError):  # as a trial's process passes it on
        raised = RayTaskError("step", "the stack", error).as_instanceof_cause()
        assert failure_of(raised, hung=False).kind == kind

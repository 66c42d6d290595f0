"""What a trial failed of is read from the errors that Ray raises in its place."""

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rrd_search.failures import DATA, DIED, ERROR, NODE_LOST, PREEMPTED, Failure, Failures, failure_of

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
        (OSError("the store does not answer"), DATA),
        (WorkerGroupError("", {0: OSError("the store does not answer"), 1: BROKEN}), DATA),
        (WorkerGroupError("", {0: OSError("the store does not answer"), 1: lost(DEAD)}), DIED),
        ("no reason is known", ERROR),
    ],
)
def test_a_lost_node_a_dead_process_and_an_error_are_told_apart(error: Exception | str, kind: str) -> None:
    assert failure_of(error, hung=False).kind == kind
    if isinstance(error, Exception) and not isinstance(error, RayActorError):  # as a trial's process passes it on
        raised = RayTaskError("step", "the stack", error).as_instanceof_cause()
        assert failure_of(raised, hung=False).kind == kind


def test_data_is_tried_again_ever_more_rarely_and_not_for_ever() -> None:
    failures, failure = Failures(), Failure(DATA, "the store does not answer")
    pauses = []
    while failures.retries("00000", failure):
        pauses.append(failures.pause("00000", failure))
    assert pauses[:3] == [15, 30, 60]
    assert 3600 < sum(pauses) < 7200
    assert failures.retries("00000", Failure(DIED, "its process died"))
    assert failures.pause("00000", Failure(DIED, "its process died")) == 0

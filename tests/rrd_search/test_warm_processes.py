"""Which waiting trial Tune is told to run."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from rrd_search.early_stopping import Sparing


def test_a_free_process_goes_to_the_newest_trial() -> None:
    """The older ones have processes that are being started for them."""
    trials = [SimpleNamespace(status=status) for status in ("TERMINATED", "PENDING", "RUNNING", "PENDING", "RUNNING")]
    controller: Any = SimpleNamespace(get_trials=lambda: trials)
    assert Sparing(FIFOScheduler()).choose_trial_to_run(controller) is trials[3]
    trials[1].status = trials[3].status = "RUNNING"
    assert Sparing(FIFOScheduler()).choose_trial_to_run(controller) is None

"""Ray Tune's side of a search: it runs the trials that it is given, and passes on what they report."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import cloudpickle, tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from rrd_search.early_stopping import METRIC
from rrd_search.search import SearchRun, TookTooLong
from trainables.resources import placement
from trainables.trial import Trial

NEVER = "1000000"  # seconds: the study is what a search resumes from, so Tune need not save its own state
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": NEVER,
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "512",  # as many may start at once; the searcher holds back what does not fit
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever it is told
}


def run_trials(run: SearchRun, trial_class: type[tune.Trainable] = Trial) -> None:
    """Run the search's trials to their end on the Ray that is initialised. Returns early at the deadline or a signal;
    what was running then goes on at the next start. Another ``trial_class`` must report as ``Trial`` does."""
    os.environ.update(SETTINGS)
    # Tune gives its actors a variable that PyTorch Lightning wants. Ray would start a process for each then, and import
    # itself twice there, in place of one that waits: 2 s each.
    class_cache.DEFAULT_ENV_VARS.clear()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the failures of trials are told here
    with TemporaryDirectory() as own, run.signals:  # Tune's own files say nothing that the study does not
        try:
            _tuner(run, trial_class, own).fit()
        except TookTooLong:
            run.progress.say("some trials have not left in time; they go on from their last checkpoints")
        else:
            run.interrupts.close()


def _tuner(run: SearchRun, trial_class: type[tune.Trainable], own: str) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(trial_class, placement),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Suggest(run),
            scheduler=run.scheduler(),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=own,
            callbacks=[_Hear(run)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
            verbose=0,
        ),
    )


class _Driver:
    """Tune saves its parts with pickle; these belong to this process and are not saved."""

    run: SearchRun

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggest(_Driver, Searcher):
    def __init__(self, run: SearchRun) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.run = run

    def suggest(self, trial_id: str) -> Any:
        return self.run.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Heard in the callback, which also learns the error."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a search resumes from its study")


class _Hear(_Driver, tune.Callback):
    def __init__(self, run: SearchRun) -> None:
        self.run = run

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self.run.tick()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.run.begun(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: Any, trial: TuneTrial, result: dict[str, Any], **_: Any) -> None:
        self.run.heard(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.run.ended(trial.trial_id, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.run.ended(trial.trial_id, trial.last_result, _error_of(trial))


def _error_of(trial: TuneTrial) -> Any:
    """The last error of a trial, which Tune has just written to its working folder; its own methods look for it in the
    search's storage, where it comes only with a snapshot, and find none."""
    try:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # not there, or of a class that this process does not know
        return "no reason is known"

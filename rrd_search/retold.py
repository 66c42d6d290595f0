"""What the recorder is told again: the trials that the study knows to have ended, and that its own file, which may be
lost, knows nothing of.

MLflow takes the same values of the same time once, so what it has already is not doubled.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from rrd_search.record import Recorder
from rrd_search.students import trial_folder
from rrd_search.trial_records import TrialRecord
from trainables.result import Report, finished_report
from trainables.worker import ENDED_AT

log = logging.getLogger(__name__)


def retell(recorder: Recorder, trials: Sequence[TrialRecord], folder: Path) -> None:
    """``folder`` is that of the search. Of trials that were stopped early, or whose result is damaged, only the end is
    told: when each of their epochs ended is not known here."""
    for trial in (one for one in trials if one.state != "running" and not recorder.knows_end(one.trial_id)):
        tags = trial_tags(trial.trial_id, trial.config.config_hash, trial.point)
        recorder.start_trial(trial.trial_id, trial.params, tags)
        report = _report(trial_folder(folder, trial.trial_id)) if trial.state == "complete" else None
        for metrics in report["curve"] if report else ():
            tell_epoch(recorder, trial.trial_id, metrics)
        summary, at = (report["summary"], report.get(ENDED_AT)) if report else ({}, None)
        tags = {"rrd.failure": trial.reason} if trial.reason else {}
        recorder.end_trial(trial.trial_id, trial.state, summary, tags, at)


def _report(folder: Path) -> Report | None:
    try:
        return finished_report(folder)
    except ValueError as damage:
        log.warning("%s: its curve is not told to MLflow again", damage)
        return None


def tell_epoch(recorder: Recorder, trial_id: str, metrics: dict[str, float]) -> None:
    """``metrics`` are those of ``Worker.epoch``."""
    shown = {name: value for name, value in metrics.items() if name not in ("epoch", ENDED_AT)}
    recorder.epoch(trial_id, int(metrics["epoch"]), shown, metrics.get(ENDED_AT))


def trial_tags(trial_id: str, config_hash: str, point: str | None) -> dict[str, str]:
    tags = {"rrd.trial_id": trial_id, "rrd.config_hash": config_hash}
    return tags | {"rrd.point": point} if point else tags

"""The runs of one search in an MLflow store: one parent, one child per trial, found again by their tags.

In: events from the journal, in their order, any of them more than once. Out: each of them in MLflow exactly once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:  # importing mlflow takes seconds, so it happens on the recorder's thread
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from rrd_search.journal import Event

PARENT = ""  # the key of the search's own run, among the trial ids
SEARCH_TAG, TRIAL_TAG, STATE_TAG, PARENT_TAG = "rrd.search", "rrd.trial_id", "rrd.state", "mlflow.parentRunId"
# A pruned trial did what it was asked to; MLflow shows KILLED as an error. The tag rrd.state tells the two apart.
STATUS_OF = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
SERVERS = ("http", "https", "databricks")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 8000  # MLflow cuts what is longer
QUIET = {
    # A create call that MLflow repeats by itself, because the answer was lost, doubles a run: we look, then repeat.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}


def check_tracking_uri(uri: str) -> None:
    """Raise ``ValueError`` with one line unless ``uri`` names a store that MLflow 3 can record in."""
    scheme = uri.split(":", 1)[0].split("+", 1)[0].lower() if ":" in uri else uri
    valid = "valid are sqlite:///PATH/mlflow.db and http(s)://HOST:PORT"
    if scheme == "file" or (":" not in uri and scheme != "databricks"):
        raise ValueError(f"--mlflow-uri {uri!r} is a folder, which MLflow 3 no longer records in; {valid}")
    if scheme not in (*SERVERS, *DATABASES):
        raise ValueError(f"--mlflow-uri {uri!r} has the unknown scheme {scheme!r}; {valid}")
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise ValueError(f"--mlflow-uri {uri!r} names no host; {valid}")
    if scheme == "sqlite" and not re.fullmatch(r"sqlite:///.*[^/]", uri):
        raise ValueError(f"--mlflow-uri {uri!r} names no file; {valid}")


def quiet_client(tracking_uri: str) -> MlflowClient:
    """A client that gives up soon and prints nothing; what the user has set in the environment stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # it may have been imported before
    if tracking_uri.startswith("sqlite:///"):
        _sqlite_file(tracking_uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=tracking_uri)


def experiment_of(client: MlflowClient, search: str) -> str:
    """The id of the experiment named after the search, created where it is missing.

    Beside an SQLite file, artifacts lie in ``mlartifacts/SEARCH``; a server decides itself.
    """
    experiment = client.get_experiment_by_name(search)
    if experiment is None:
        artifacts = None
        if client.tracking_uri.startswith("sqlite:///"):
            artifacts = str(_sqlite_file(client.tracking_uri).parent / "mlartifacts" / search)
        return str(client.create_experiment(search, artifact_location=artifacts))
    if experiment.lifecycle_stage == "deleted":
        raise RuntimeError(f"the experiment {search} was deleted there: restore it, or choose another --name")
    return str(experiment.experiment_id)


def plain_reason(error: BaseException) -> str:
    """What went wrong with a tracking server, in at most one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "Connection refused" in text or "Failed to resolve" in text or "Max retries exceeded" in text:
        return "it does not answer" if "timed out" not in text else "it does not answer in time"
    if re.search(r"\b40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED", text):
        return "it refuses the credentials"
    return text if len(text) <= 160 else text[:157] + "..."


def store_id(uri: str) -> str:
    """Tells a store from another one in a file: its URI may hold a password."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def shown_uri(uri: str) -> str:
    """The URI without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


@dataclass
class _Found:
    """What is known of a run: enough not to send what it has, and not to send to one that a person deleted."""

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    running: bool = True
    deleted: bool = False
    times: dict[int, int] | None = None  # when its epochs ended (ms), by epoch; None: not asked for yet


@dataclass
class _Pending:
    """What goes to one run with the next call."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # key, value, time (ms), step
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Runs:
    """Sends events to the runs of ``search``. Every method raises when the store does not answer.

    After an exception, ``connect`` again before the next ``send``: what was lost with a lost answer is looked up.
    """

    def __init__(self, tracking_uri: str, search: str):
        self._tracking_uri = tracking_uri
        self._search = search
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._known: dict[str, _Found] = {}  # by trial id
        self._pending: dict[str, _Pending] = {}  # by trial id
        self.refused: dict[str, str] = {}  # what the store will never take, and why

    def connect(self) -> bool:
        """Look up the runs; false when what was sent before may be missing, so that all must be sent again.

        Runs that were created twice (the answer to the first creation was lost) are reduced to one.
        """
        self._known, self._pending = {}, {}
        self._client = self._client or quiet_client(self._tracking_uri)
        self._experiment_id = experiment_of(self._client, self._search)
        runs = self._all_runs()
        parents = [r for r in runs if r.data.tags.get(SEARCH_TAG) == self._search and PARENT_TAG not in r.data.tags]
        whole = self._choose(PARENT, parents)
        parent = self._known.get(PARENT)
        if parent is None:
            return False
        if parent.deleted:  # a search that goes on needs its run
            self._client.restore_run(parent.run_id)
            parent.deleted = False
        families = {run.info.run_id for run in parents}
        children: dict[str, list[Run]] = {}
        for run in runs:
            if run.data.tags.get(PARENT_TAG) in families and TRIAL_TAG in run.data.tags:
                children.setdefault(run.data.tags[TRIAL_TAG], []).append(run)
        for trial_id, doubles in children.items():
            whole = self._choose(trial_id, doubles, parent.run_id) and whole
        return whole

    def send(self, events: Iterable[Event]) -> None:
        """Send events in their order, many in one call per run."""
        assert self._client is not None, "connect first"
        for event in events:
            if not self._run_of(event).deleted:
                self._take(event)
        for trial_id in list(self._pending):
            self._flush(trial_id)

    def _all_runs(self) -> list[Run]:
        assert self._client is not None
        from mlflow.entities import ViewType

        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], "", ViewType.ALL, 1000, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _choose(self, trial_id: str, runs: list[Run], parent_id: str | None = None) -> bool:
        """Keep the first of the runs that stand for one thing, and delete the others; false if there were others."""
        assert self._client is not None
        active = [run for run in runs if run.info.lifecycle_stage == "active"]
        for chosen in (active or runs)[:1]:
            self._known[trial_id] = _Found(
                chosen.info.run_id,
                dict(chosen.data.params),
                chosen.info.status == "RUNNING",
                chosen.info.lifecycle_stage == "deleted",
            )
            if parent_id and active and chosen.data.tags[PARENT_TAG] != parent_id:  # of a parent created twice
                self._client.set_tag(chosen.info.run_id, PARENT_TAG, parent_id)
        for double in active[1:]:
            self._client.delete_run(double.info.run_id)
        return len(active) < 2

    def _run_of(self, event: Event) -> _Found:
        trial_id = event.get("trial", PARENT)
        if trial_id not in self._known:
            self._known[trial_id] = self._create(trial_id, event)
        return self._known[trial_id]

    def _create(self, trial_id: str, event: Event) -> _Found:
        assert self._client is not None
        tags = dict(event.get("tags", {}))
        if trial_id == PARENT:
            tags |= {SEARCH_TAG: self._search}
        else:
            tags |= {TRIAL_TAG: trial_id, PARENT_TAG: self._run_of({"time": event["time"]}).run_id}
        run = self._client.create_run(
            self._experiment_id,
            start_time=event["time"],
            tags={key: value[:TAG_CHARACTERS] for key, value in tags.items()},
            run_name=trial_id or self._search,
        )
        return _Found(run.info.run_id, times={})

    def _take(self, event: Event) -> None:
        match event["kind"]:
            case "start":
                self._start(event)
            case "epoch":
                if not self._is_told(event):
                    self._measure(event)
            case "end":
                self._end(event)

    def _start(self, event: Event) -> None:
        run, pending = self._run_of(event), self._of(event)
        for key, value in event["params"].items():
            if run.params.setdefault(key, value[:PARAM_CHARACTERS]) == value[:PARAM_CHARACTERS]:
                pending.params[key] = value[:PARAM_CHARACTERS]
            else:  # MLflow's params never change; an extended search's may
                pending.tags[f"rrd.changed.{key}"] = value[:TAG_CHARACTERS]
        pending.tags |= event["tags"]
        if not run.running:
            assert self._client is not None
            self._client.update_run(run.run_id, status="RUNNING")
            run.running = True

    def _is_told(self, event: Event) -> bool:
        """Whether the run has this epoch of another time: a driver had told it whose disk is lost, its journal with it,
        and the trial has trained it again."""
        assert self._client is not None
        run, key = self._run_of(event), next(iter(event["metrics"]), "")
        if run.times is None:
            told = self._client.get_metric_history(run.run_id, key) if run.running and key else []
            run.times = {metric.step: metric.timestamp for metric in told}
        return run.times.get(event["epoch"], event["time"]) != event["time"]

    def _measure(self, event: Event) -> None:
        step, metrics = event.get("epoch", 0), self._of(event).metrics
        metrics += [(key, float(value), event["time"], step) for key, value in event["metrics"].items()]

    def _end(self, event: Event) -> None:
        assert self._client is not None
        self._measure(event)
        self._of(event).tags |= event["tags"]
        self._flush(event.get("trial", PARENT))
        run = self._run_of(event)
        if not run.deleted:
            self._client.set_terminated(run.run_id, STATUS_OF[event["state"]], event["time"])
        run.running = False

    def _of(self, event: Event) -> _Pending:
        return self._pending.setdefault(event.get("trial", PARENT), _Pending())

    def _flush(self, trial_id: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        pending, run = self._pending.pop(trial_id, _Pending()), self._known[trial_id]
        self._log(
            run,
            [Metric(*metric) for metric in pending.metrics],
            [Param(key, value) for key, value in pending.params.items()],
            [RunTag(key, value[:TAG_CHARACTERS]) for key, value in pending.tags.items()],
        )

    def _log(self, run: _Found, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
        """One call; where the store refuses something in it, one call for each thing, so that the rest arrives."""
        from mlflow.exceptions import MlflowException

        assert self._client is not None
        try:
            self._client.log_batch(run.run_id, metrics, params, tags)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or run.deleted:
                raise
            run.deleted = self._client.get_run(run.run_id).info.lifecycle_stage == "deleted"
            if run.deleted:
                return
            if len(metrics) + len(params) + len(tags) == 1:
                self.refused[(metrics + params + tags)[0].key] = plain_reason(error)
                return
            for one in _each(metrics, params, tags):
                self._log(run, *one)


Thing = TypeVar("Thing")


def _each(*lists: list[Thing]) -> Iterable[list[list[Thing]]]:
    for place, things in enumerate(lists):
        for thing in things:
            yield [[thing] if at == place else [] for at in range(len(lists))]


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).absolute()


def as_json_number(value: float) -> float | str:
    """A metric as JSON can hold it: NaN and infinities as text, which ``float`` reads back."""
    return float(value) if math.isfinite(value) else str(float(value))

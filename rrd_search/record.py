"""The recorder: one MLflow run per search, one child per trial; asynchronous, restart-safe, never in the way.

Each event is first a line in ``record.jsonl``; a thread reads the lines and sends them, now or at the next start.
"""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rrd_search.journal import Event, Journal
from rrd_search.tracking import (
    PARENT,
    QUIET,
    STATE_TAG,
    STATUS_OF,
    TRIAL_TAG,
    Runs,
    as_json_number,
    check_tracking_uri,
    plain_reason,
    shown_uri,
)

PATIENCE_SECONDS = 60.0  # at a search's end, for what MLflow has not taken yet
GATHER_SECONDS = 0.5  # events wait so long for others that go with the same call
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0  # between attempts while the server is away
NO_TAGS: Mapping[str, str] = {}


class Recorder:
    """Records the search named ``search`` in MLflow at ``tracking_uri``, through a journal in ``folder``.

    No method waits for MLflow (but ``close``) or raises because of it. A new recorder on the same folder goes on where
    the last one stopped. What was recorded before is not recorded again: an epoch of a trial counts once (the first
    time), a start or an end only where it tells something new. ValueError: ``tracking_uri`` is no store of MLflow 3.
    """

    def __init__(self, folder: Path, tracking_uri: str, search: str):
        check_tracking_uri(tracking_uri)
        for name, value in QUIET.items():  # before mlflow is imported by anyone
            os.environ.setdefault(name, value)
        self._uri = tracking_uri
        self._journal = Journal(folder, server=tracking_uri)
        self._known = _Known()
        for event in self._journal.events():
            self._known.remember(event)
        self._runs = Runs(tracking_uri, search)
        self._connected = False
        self._doubtful = self._journal.unsent > 0  # the last driver may have died between a call and its answer
        self._reason = ""
        self._lock = threading.Lock()
        self._news, self._closing, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if self._journal.unsent:
            self._wake()

    def start_search(self, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """The search starts, resumes or is extended. ``params`` are what is fixed; what may change are ``tags``."""
        self._record({"kind": "start", "params": _texts(params), "tags": _texts(tags)})

    def start_trial(self, trial_id: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """A trial starts or resumes; its id must be unique in the search."""
        own = {STATE_TAG: "running", **_texts(tags), TRIAL_TAG: trial_id}
        self._record({"kind": "start", "trial": trial_id, "params": _texts(params), "tags": own})

    def epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float], at: float | None = None) -> None:
        """The metrics of one epoch of a trial, with the epoch as step. ``at`` is when it ended, ``time.time()``: MLflow
        takes the same values of the same time once, whoever tells them."""
        self._record({"kind": "epoch", "trial": trial_id, "epoch": epoch, "metrics": _numbers(metrics)}, at)

    def end_trial(
        self,
        trial_id: str,
        state: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str] = NO_TAGS,
        at: float | None = None,
    ) -> None:
        """A trial is ``complete``, ``pruned`` or ``failed``; ``metrics`` are those of the whole run."""
        self._record(_end(state, metrics, {**_texts(tags), STATE_TAG: state}) | {"trial": trial_id}, at)

    def end_search(self, metrics: Mapping[str, float], tags: Mapping[str, str], state: str = "complete") -> None:
        """The search is ``complete``, ``failed``, or ``stopped`` before its end."""
        self._record(_end(state, metrics, _texts(tags)))

    def knows_end(self, trial_id: str) -> bool:
        """Whether the end of the trial was recorded, as far as this folder tells."""
        return self._known.ended(trial_id)

    def unsent(self) -> int:
        """How many events MLflow did not take yet."""
        return self._journal.unsent

    def close(self, timeout_seconds: float) -> str | None:
        """Wait until all is sent; None when it is, else one line that says what is missing and what becomes of it."""
        self._closing.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self._stop.set()
        return self._missing()

    def _record(self, event: Event, at: float | None = None) -> None:
        with self._lock:
            new = self._known.news_of({"time": int((at or time.time()) * 1000), **event})  # ms
            if new is None:
                return
            self._journal.append(new)
        self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, name="recorder", daemon=True)
            self._thread.start()
        self._news.set()

    def _deliver(self) -> None:
        """The thread: send what there is, wait for more; while the server is away, try again ever more rarely."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            self._news.wait()
            self._closing.wait(GATHER_SECONDS)
            self._news.clear()
            try:
                self._send_all()
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:  # whatever it is: tracking never stops a search
                self._reason, self._connected, self._doubtful = plain_reason(error), False, True
                self._news.set()
                if self._closing.is_set():
                    self._stop.wait(FIRST_PAUSE_SECONDS)
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if self._closing.is_set() and not self._journal.unsent:
                return

    def _send_all(self) -> None:
        while not self._stop.is_set():
            if not self._connected:
                if not self._runs.connect():
                    self._journal.rewind()
                self._connected = True
            chunk = self._journal.unacknowledged()
            if chunk.lines:
                self._runs.send(chunk.events)
                self._journal.acknowledge(chunk)
            elif self._doubtful and self._closing.is_set():
                self._connected = self._doubtful = False  # look once more whether a run was created twice
            elif self._journal.unwritten:
                raise OSError(self._journal.problem)
            else:
                return

    def _missing(self) -> str | None:
        journal, said = self._journal, []
        if journal.unsent:
            said.append(
                f"MLflow at {shown_uri(self._uri)} has not taken {journal.unsent} of {journal.total} recorded events"
                + (f" ({self._reason})" if self._reason else "")
                + f"; they are kept in {journal.path} and sent when this search is started again"
            )
        if journal.unwritten:
            said.append(f"{journal.unwritten} of them are lost, because {journal.path} fails: {journal.problem}")
        if self._runs.refused:
            key, why = next(iter(self._runs.refused.items()))
            said.append(f"MLflow refused {len(self._runs.refused)} values, the first being {key}: {why}")
        if journal.damaged:
            said.append(f"{journal.damaged} damaged lines of {journal.path} were left out")
        return "; ".join(said) or None


class _Known:
    """What was recorded already, so that a restarted driver, which tells some things again, doubles nothing."""

    def __init__(self) -> None:
        self._epochs: dict[str, set[int]] = {}  # by trial id
        self._state: dict[str, Event] = {}  # the last start or end, without its time and metrics
        self._metrics: dict[str, Event] = {}  # of the whole run

    def news_of(self, event: Event) -> Event | None:
        """What in ``event`` is new and now known; None if nothing is."""
        trial_id = event.get("trial", PARENT)
        if event["kind"] == "epoch":
            if event["epoch"] in self._epochs.get(trial_id, ()):
                return None
        elif event["kind"] == "end":
            known = self._metrics.get(trial_id, {})
            metrics = {key: value for key, value in event["metrics"].items() if known.get(key) != value}
            last_epoch = max(self._epochs.get(trial_id, ()), default=0)
            event = event | {"metrics": metrics, "epoch": last_epoch}
        if event["kind"] != "epoch" and not event.get("metrics") and self._state.get(trial_id) == _state_of(event):
            return None
        self.remember(event)
        return event

    def ended(self, trial_id: str) -> bool:
        return self._state.get(trial_id, {}).get("kind") == "end"

    def remember(self, event: Event) -> None:
        trial_id = event.get("trial", PARENT)
        if event["kind"] == "epoch":
            self._epochs.setdefault(trial_id, set()).add(event["epoch"])
            return
        self._state[trial_id] = _state_of(event)
        self._metrics.setdefault(trial_id, {}).update(event.get("metrics", {}))


def _state_of(event: Event) -> Event:
    return {key: value for key, value in event.items() if key not in ("time", "metrics", "epoch")}


def _end(state: str, metrics: Mapping[str, float], tags: dict[str, str]) -> Event:
    assert state in STATUS_OF, f"unknown state {state!r}; valid are {', '.join(STATUS_OF)}"
    return {"kind": "end", "state": state, "metrics": _numbers(metrics), "tags": tags}


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _numbers(values: Mapping[str, float]) -> dict[str, float | str]:
    return {key: as_json_number(value) for key, value in values.items()}

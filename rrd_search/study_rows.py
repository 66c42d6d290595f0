"""A search's trials, read from its study's file with Python alone: importing Optuna takes longer than this look."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rrd_search.marks import (
    EARLIER,
    EARLIER_REFERENCES,
    SPACE,
    check_owner,
    latest_generation,
    reference_id,
    references_of,
    searched_id,
)
from rrd_search.study_copy import copied

STATES = {"RUNNING": "running", "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
TRIALS = "select trial_id, number, state, datetime_start from trials where study_id = ? order by number"
ATTRIBUTES = "select key, value_json from trial_user_attributes where trial_id = ?"
LAST = "select max(step), intermediate_value from trial_intermediate_values where trial_id = ?"  # both of one row
VALUE = "select value from trial_values where trial_id = ?"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is shown of a trial; the names mean what they mean in ``TrialRecord``. ``of_epochs`` it is to run, and
    ``accuracy`` is that of the last epoch."""

    trial_id: str
    state: str
    value: float | None
    epochs: int
    of_epochs: int
    accuracy: float | None
    point: str | None
    reference: bool
    reason: str | None
    started: datetime | None
    earlier: str | None


def read_rows(folder: Path) -> list[Row]:
    """In the order of ``read_trials``. Nothing is written or locked. ValueError where the study cannot be read."""
    with copied(folder / "study.db") as copy, closing(sqlite3.connect(copy)) as database:
        try:
            return list(_rows(database, folder.name))
        except sqlite3.Error as error:
            raise ValueError(f"{folder / 'study.db'} cannot be read: {error}") from error


def _rows(database: sqlite3.Connection, search: str) -> Iterator[Row]:
    studies = dict(database.execute("select study_name, study_id from studies"))
    check_owner(search, studies)
    attributes = {name: _attributes_of_study(database, study) for name, study in studies.items()}
    present = latest_generation(search, [name for name in studies if SPACE in attributes[name]])
    earlier = attributes.get(present, {}).get(EARLIER_REFERENCES, {})
    for name, reference in ((present, False), (references_of(search), True)):
        for trial in database.execute(TRIALS, (studies.get(name),)).fetchall():
            known = {key: json.loads(value) for key, value in database.execute(ATTRIBUTES, trial[:1])}
            if trial[2] in STATES and "config" in known:
                yield _row(database, trial, known, earlier if reference else None)


def _attributes_of_study(database: sqlite3.Connection, study: int) -> dict[str, Any]:
    found = database.execute("select key, value_json from study_user_attributes where study_id = ?", (study,))
    return {key: json.loads(value) for key, value in found}


def _row(
    database: sqlite3.Connection,
    trial: tuple[int, int, str, str | None],
    known: dict[str, Any],
    earlier_references: dict[str, str] | None,
) -> Row:
    row, number, state, started = trial
    reference = earlier_references is not None
    trial_id = (known.get("trial_id") or reference_id(known["point"])) if reference else searched_id(number)
    (value,) = database.execute(VALUE, (row,)).fetchone() or (None,)
    epochs, accuracy = database.execute(LAST, (row,)).fetchone()
    earlier = known.get(EARLIER) or {"state": STATES[state], "value": value}
    return Row(
        trial_id=trial_id,
        state=earlier["state"],
        value=earlier["value"],
        epochs=epochs or 0,
        of_epochs=known["config"]["epochs"],
        accuracy=accuracy,
        point=known.get("point"),
        reference=reference,
        reason=known.get("reason"),
        started=datetime.fromisoformat(started) if started else None,
        earlier=(earlier_references or {}).get(trial_id) or earlier.get("why"),
    )

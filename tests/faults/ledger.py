"""What a search left in its study, its folders and MLflow, held against what was seen of its trials."""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from searches import Search

from rrd_search.tracking import quiet_client

ENDED = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
EVERY_EPOCH = ("val_accuracy", "val_loss", "train_loss", "train_rrd_kl", "images_per_second")


@dataclass
class Told:
    """A trial as the study knows it."""

    state: str  # running, complete, pruned or failed
    curve: dict[int, float]
    reason: str = ""


@dataclass
class Findings:
    """What is wrong, one line each; all lists of a sound search are empty."""

    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        named = {"lost": self.lost, "repeated": self.repeated, "duplicated": self.duplicated, "missing": self.missing}
        return [f"{name}: {line}" for name, lines in named.items() for line in lines]


def trials_of(search: Search) -> dict[str, Told]:
    """The searched trials by id."""
    return trials_in(search.folder, search.name)


def trials_in(folder: Path, name: str) -> dict[str, Told]:
    """Those of the study in a folder, read from the file itself, so that a killed driver's can be read too."""
    file = folder / "study.db"
    if not file.is_file():
        return {}
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60) as database:
        try:
            rows = database.execute(
                "select t.trial_id, t.number, t.state, r.value_json from trials t join studies s using (study_id) "
                "left join trial_user_attributes r on r.trial_id = t.trial_id and r.key = 'reason' "
                "where s.study_name = ? and t.trial_id in "
                "(select trial_id from trial_user_attributes where key = 'config')",
                (name,),
            ).fetchall()
            values = database.execute("select trial_id, step, intermediate_value from trial_intermediate_values")
            curves: dict[int, dict[int, float]] = {}
            for row, step, value in values:
                curves.setdefault(row, {})[step] = value
        except sqlite3.OperationalError:  # killed while the tables were made
            return {}
    return {
        f"{number:05d}": Told(ENDED.get(state, "running"), curves.get(row, {}), json.loads(reason or '""'))
        for row, number, state, reason in rows
    }


def finished(search: Search) -> set[str]:
    """The trials that ended well."""
    return {trial_id for trial_id, told in trials_of(search).items() if told.state in ("complete", "pruned")}


def examine(search: Search, ever_finished: set[str], failing: int = 0) -> Findings:
    """All that must hold of a search that went to its end: ``ever_finished`` are the trials that some driver knew as
    finished; ``failing`` trials were made to fail."""
    found, told = Findings(), trials_of(search)
    now = finished(search)
    found.lost += [f"trial {trial_id} was finished before" for trial_id in sorted(ever_finished - now)]
    if len(now) != search.trials - failing:
        found.lost.append(f"{len(now)} trials finished, not {search.trials - failing}: {_states(told)}")
    wrong = ("running", "pruned") if "none" in search.options else ("running",)
    found.lost += [f"trial {one} is {trial.state}" for one, trial in told.items() if trial.state in wrong]
    found.repeated += repeated(search.seen())
    for trial_id, trial in told.items():
        if sorted(trial.curve) != list(range(1, len(trial.curve) + 1)):
            found.missing.append(f"the study has epochs {sorted(trial.curve)} of trial {trial_id}")
        if trial.state == "complete":
            found.missing += _result_differs(search.folder / "trials" / trial_id, trial)
    examine_runs(search.uri, search.name, told, found)
    return found


def repeated(seen: list[dict[str, Any]]) -> list[str]:
    """Epochs that were trained although a checkpoint or the trial's end had covered them."""
    covered: Counter[str] = Counter()
    found = []
    for line in seen:
        trial = line["trial"]
        if line.get("rank", 0) or trial is None:
            continue
        if line["kind"] == "begins" and line["epoch"] <= covered[trial]:
            found.append(f"epoch {line['epoch']} of trial {trial}, with a checkpoint of epoch {covered[trial]}")
        elif line["kind"] in ("write_checkpoint", "finish"):
            covered[trial] = max(covered[trial], line["epoch"])
    return found


def examine_runs(uri: str, name: str, told: dict[str, Told], found: Findings) -> None:
    """Whether MLflow has each trial once, with whole curves and the end that it came to."""
    client = quiet_client(uri)
    runs = runs_of(client, name)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    if len(parents) != 1:
        found.duplicated.append(f"{len(parents)} parents")
    found.missing += [f"the end of the search: {run.info.status}" for run in parents if run.info.status != "FINISHED"]
    children: dict[str, list[Run]] = {}
    for run in runs:
        if run not in parents and not run.data.tags.get("rrd.trial_id", "").startswith("ref-"):
            children.setdefault(run.data.tags.get("rrd.trial_id", "?"), []).append(run)
    for trial_id, doubles in children.items():
        if len(doubles) > 1 or trial_id not in told:
            found.duplicated.append(f"{len(doubles)} runs of trial {trial_id}, which is {told.get(trial_id)}")
    for trial_id, trial in told.items():
        if trial_id in children:
            _examine_run(client, children[trial_id][0], trial, found)
        else:
            found.missing.append(f"the run of trial {trial_id}")


def _states(told: dict[str, Told]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in told.values()).items())


def _result_differs(folder: Path, trial: Told) -> list[str]:
    file = folder / "result.json"
    if not file.is_file():
        return [f"{file} of a complete trial"]
    curve = json.loads(file.read_text())["curve"]
    if [metrics["epoch"] for metrics in curve] != sorted(trial.curve):
        return [f"{file} has epochs {[metrics['epoch'] for metrics in curve]}"]
    differ = [metrics["epoch"] for metrics in curve if metrics["val_accuracy"] != trial.curve[metrics["epoch"]]]
    return [f"{file} differs from the study in epochs {differ}"] if differ else []


def _examine_run(client: MlflowClient, run: Run, trial: Told, found: Findings) -> None:
    name = run.info.run_name
    if run.data.tags.get("rrd.state") != trial.state or run.info.status == "RUNNING":
        said = f"{run.data.tags.get('rrd.state')}, {run.info.status}"
        found.missing.append(f"the end of trial {name}, which is {trial.state}: MLflow has {said}")
    metrics = [name for name in EVERY_EPOCH if name in run.data.metrics or trial.curve]
    for metric in metrics:
        history = client.get_metric_history(run.info.run_id, metric)
        steps = [point.step for point in history]
        if len(steps) != len(set(steps)):
            found.duplicated.append(f"{metric} of trial {name} has epochs {steps}")
        if set(steps) != set(trial.curve):
            found.missing.append(f"{metric} of trial {name} has epochs {steps}, not {sorted(trial.curve)}")
        if metric == "val_accuracy" and {point.step: point.value for point in history} != trial.curve:
            found.missing.append(f"{metric} of trial {name} differs from the study")
    if trial.state != "failed" and "epochs_run" not in run.data.metrics:
        found.missing.append(f"the summary of trial {name}")


def runs_of(client: MlflowClient, name: str) -> list[Run]:
    """All runs of a search that are not deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], max_results=5000))

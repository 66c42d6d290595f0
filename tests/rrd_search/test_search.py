"""Whole searches on a real Ray, recorded on a real MLflow server: what they leave in study, storage and MLflow."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from rrd_search.recorded_trials import read_trials
from rrd_search.search_file import read_search_file
from rrd_search.stop_evidence import rung_evidence
from rrd_search.trial_records import record_of
from trainables.config import TrialConfig
from trainables.data.parts import load_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TUNE = [sys.executable, "-m", "rrd_search.tune"]
SMALL = ["--epochs", "3", "--trials", "6", "--teacher", "resnet8", "--set", "teacher.epochs=4", "--seed", "3"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, cwd=folder, env=environment)
    uri = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.3)
    yield uri
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """Of a finished search called ``small``."""
    storage = tmp_path_factory.mktemp("storage")
    done = tune(storage, server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the winner beside what it should beat" in done.stdout
    assert "can the early stops be trusted?" in done.stdout
    return storage


def tune(storage: Path, server: str, *more: str, space: str = "quickstart") -> subprocess.CompletedProcess[str]:
    command = [*TUNE, space, "--name", "small", "--storage", str(storage), "--mlflow-uri", server, *SMALL, *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=storage, env={**os.environ, "COLUMNS": "150"})


def study_of(storage: Path, name: str = "small") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{storage}/small/study.db")


def test_the_study_holds_the_truth(storage: Path) -> None:
    trials = [trial for trial in study_of(storage).trials if "config" in trial.user_attrs]
    assert len(trials) == 6
    states = {trial.state for trial in trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        assert epochs == list(range(1, len(epochs) + 1))
        assert (trial.state == TrialState.COMPLETE) == (len(epochs) == 3)
        if trial.state == TrialState.COMPLETE:
            assert trial.value == trial.intermediate_values[3]
        assert sorted(map(int, trial.user_attrs["rungs"])) == [epoch for epoch in epochs if epoch < 3]
        assert trial.user_attrs.get("audited_at_epoch") is None or trial.state == TrialState.COMPLETE
    assert [trial.user_attrs.get("point") for trial in trials[:2]] == ["version 2", "later version"]
    assert all(trial.state == TrialState.COMPLETE for trial in trials[:2]), "published points run to their end"
    references = study_of(storage, "small-references").trials
    assert all("rungs" not in trial.user_attrs for trial in references), "references are not compared"
    assert {trial.user_attrs["point"] for trial in references} == {"KD alone", "student alone"}


def test_mlflow_holds_parent_children_params_and_curves(storage: Path, server: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    known = {trial.number: trial for trial in study_of(storage).trials}
    evidence = rung_evidence([record_of(trial, False) for trial in known.values() if "config" in trial.user_attrs])
    assert [rung.epoch for rung in evidence] == [1, 2]
    said = {name: value for name, value in parents[0].data.metrics.items() if name.startswith("rank_correlation_")}
    assert said == {f"rank_correlation_epoch_{rung.epoch}": pytest.approx(rung.rank_correlation) for rung in evidence
                    if rung.rank_correlation is not None}  # fmt: skip
    searched = [run for run in children if not run.data.tags["rrd.trial_id"].startswith("ref-")]
    assert len(searched) == 6
    assert len(children) == 8
    for run in searched:
        trial = known[int(run.data.tags["rrd.trial_id"])]
        assert run.data.tags["rrd.state"] == {"COMPLETE": "complete", "PRUNED": "pruned"}[trial.state.name]
        assert run.data.tags["rrd.config_hash"] == trial.user_attrs["config_hash"]
        audited = trial.user_attrs.get("audited_at_epoch")
        assert run.data.tags.get("rrd.audited_at_epoch") == (None if audited is None else str(audited))
        assert run.data.params.keys() == trial.params.keys()
        for name in ("val_accuracy", "val_loss", "train_loss", "train_rrd_kl", "images_per_second"):
            curve = client.get_metric_history(run.info.run_id, name)
            assert [metric.step for metric in curve] == sorted(trial.intermediate_values)
        curve = client.get_metric_history(run.info.run_id, "val_accuracy")
        assert {metric.step: metric.value for metric in curve} == trial.intermediate_values
        assert run.data.metrics["epochs_run"] == len(curve) or run.data.tags["rrd.state"] == "pruned"


def test_the_champion_gives_the_recorded_accuracy(storage: Path, server: str) -> None:
    script = """
import json, sys, mlflow, numpy, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model("models:/small@champion")
images, labels = (torch.from_numpy(numpy.load(f"{sys.argv[2]}/{name}.npy")) for name in ("images", "labels"))
print(json.dumps((model(images).argmax(1) == labels).double().mean().item()))
"""
    best = study_of(storage).best_trial
    config = TrialConfig.from_dict(best.user_attrs["config"])
    images = load_training(config.data, storage, storage)
    np.save(storage / "images.npy", images.part.images[images.held_out_ids])
    np.save(storage / "labels.npy", images.part.labels[images.held_out_ids])
    command = [sys.executable, "-c", script, server, str(storage)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=storage).stdout
    assert json.loads(said.splitlines()[-1]) == pytest.approx(best.value, abs=1e-9)


def test_losers_do_not_fill_the_disk(storage: Path) -> None:
    ended = {f"{trial.number:05d}": trial.state for trial in study_of(storage).trials}
    folders = {folder.name: folder for folder in (storage / "small" / "trials").iterdir()}
    assert not [name for name in folders if ended.get(name) == TrialState.PRUNED]
    students = [name for name in folders if name in ended and (folders[name] / "student.safetensors").is_file()]
    assert 1 <= len(students) <= 3
    assert not list((storage / "small" / "trials").rglob("checkpoint.pt"))


def test_a_finished_search_shows_its_results_and_more_trials_extend_it(storage: Path, server: str) -> None:
    again = tune(storage, server)
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout
    assert "starting Ray" not in again.stdout
    before = read_trials(storage / "small")
    (storage / "wider.py").write_text(WIDER)
    extended = tune(storage, server, "--trials", "7", space="wider.py")
    assert extended.returncode == 0, extended.stderr
    assert "ce_weight: 1.0 -> from 0.5 to 1" in extended.stdout
    after = read_trials(storage / "small")
    known = {trial.trial_id for trial in before}
    assert len({trial.config.config_hash for trial in after}) == 7 + 2
    assert [replace(trial, params={}) for trial in after if trial.trial_id in known] == [
        replace(trial, params={}) for trial in before
    ]
    assert read_search_file(storage / "small").space == "wider.py"  # type: ignore[union-attr]
    parameters = [trial.params.keys() for trial in after if not trial.reference]
    assert all("ce_weight" in names for names in parameters), "those of before are points of the wider space"


WIDER = """
from dataclasses import replace
from search_spaces import quickstart
from search_spaces.quickstart import BASE, REFERENCES, START
def space(trial, base):
    return replace(quickstart.space(trial, base), ce_weight=trial.suggest_float("ce_weight", 0.5, 1))
"""

"""A search of two trials on digits as a driver leaves it in its storage, made in seconds and without Ray."""

from dataclasses import replace
from pathlib import Path

import optuna
import torch

from rrd_search.optuna_searcher import Study
from rrd_search.search_file import SearchFile, teacher_facts
from rrd_search.space import Space
from rrd_search.students import trial_folder
from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.places import Places
from trainables.teacher import TeacherFile, make_teacher, with_weights
from trainables.worker import Task, Worker

NAME = "tiny"
BASE = TrialConfig(
    data=DataConfig(name="digits", held_out=0.25),
    teacher=TeacherConfig(architecture="resnet8", epochs=1),
    student="resnet8",
    loss=RRD.Config(queue_size=64, projection_dim=16, weight=0.2),
    batch_size=32,
    epochs=2,
)
TEMPERATURES = (0.04, 0.1)
REFERENCES = {"student alone": {"loss.weight": 0.0}}


def make_search(storage: Path) -> Study:
    """Two complete trials and a reference, a pruned trial and a failed one. The study is left open."""
    torch.set_num_threads(1)
    places = Places(storage=storage, data_root=storage)
    *_, teacher = make_teacher(BASE, places, torch.device("cpu"))
    assert isinstance(teacher, TeacherFile)
    folder = storage / NAME
    SearchFile(
        space="tiny.py",
        trials=4,
        sampler="random",
        scheduler="none",
        seed=0,
        data_root=str(storage),
        teacher=teacher_facts(teacher),
    ).write(folder)
    space = Space(name=NAME, function=_space, base=with_weights(BASE, teacher.weights), references=REFERENCES)
    study = Study(f"sqlite:///{folder / 'study.db'}", NAME, space, "random", seed=1)
    for proposal in study.propose_references():
        _train(study, proposal.trial_id, proposal.config, places)
    for state in ("complete", "complete", "pruned", "failed"):
        proposed = study.propose()
        assert proposed is not None, "four of infinitely many"
        if state == "complete":
            _train(study, proposed.trial_id, proposed.config, places)
        else:
            study.report(proposed.trial_id, 1, 0.99)
            study.tell(proposed.trial_id, state, None)
    return study


def _space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    temperature = trial.suggest_float("loss.student_temperature", *TEMPERATURES)
    assert isinstance(base.loss, RRD.Config)
    return replace(base, loss=replace(base.loss, student_temperature=temperature))


def _train(study: Study, trial_id: str, config: TrialConfig, places: Places) -> None:
    folder = trial_folder(places.storage / NAME, trial_id)
    worker = Worker(Task(config=config, places=places, folder=folder), torch.device("cpu"))
    folder.mkdir(parents=True)
    while not worker.finished:
        metrics = worker.epoch()
        study.report(trial_id, int(metrics["epoch"]), metrics["val_accuracy"])
    worker.finish()
    study.tell(trial_id, "complete", worker.curve[-1]["val_accuracy"])

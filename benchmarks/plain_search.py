"""A whole search as one would write it with Ray, Optuna and MLflow as they come: a TorchTrainer of one worker for
every trial, the stock OptunaSearch, callbacks and logger, the plain recipe inside.

python -m benchmarks.plain_search SEARCHED.pickle FOLDER leaves a JSON file a trial in FOLDER.
"""

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch
from torch.utils.data import DataLoader

from benchmarks import search_space
from benchmarks.plain import (
    VALIDATION_BATCH,
    Loader,
    PlainImages,
    PlainSettings,
    PlainTraining,
    augmenting,
    training_loader,
    unaugmented,
)
from benchmarks.searched import BATCH_SIZE, Searched
from search_spaces import rrd
from trainables.data import DATASETS
from trainables.data.splits import split
from trainables.loop import learning_rate
from trainables.weights import load_network

SPACE = {
    "student_temperature": tune.loguniform(*search_space.STUDENT_TEMPERATURES),
    "teacher_temperature": tune.loguniform(*search_space.TEACHER_TEMPERATURES),
    "rrd_weight": tune.loguniform(*search_space.RRD_WEIGHTS),
    "kd_weight": tune.choice(rrd.KD_WEIGHTS),
    "learning_rate": tune.loguniform(*rrd.LEARNING_RATES),
}


def search(searched: Searched, folder: Path) -> None:
    # A trial's own process waits for its worker, and takes a CPU of Ray's count as well.
    ray.init(address="local", num_cpus=2 * searched.concurrent)
    logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="plain")
    tuner = tune.Tuner(
        trial,
        param_space={**SPACE, "searched": searched, "folder": str(folder)},
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            search_alg=OptunaSearch(seed=searched.seed),
            num_samples=searched.trials,
            max_concurrent_trials=searched.concurrent,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[logger]),
    )
    results = tuner.fit()
    assert results.num_errors == 0, f"{results.num_errors} trials of the plain side failed"
    ray.shutdown()


def trial(config: dict[str, Any]) -> None:
    """What Tune runs: a trainer for the trial."""
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={**config, "trial_id": tune.get_context().get_trial_id()},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=f"{config['folder']}/train",
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # Ray's annotation is of Tune's
        ),
    )
    trainer.fit()


def train_worker(config: dict[str, Any]) -> None:
    """What Train runs in its one worker."""
    torch.set_num_threads(1)
    searched: Searched = config["searched"]
    torch.manual_seed(searched.seed)
    training_images, held_out = loaders(searched)
    training = plain_training(searched, config)
    planned = searched.config.with_values({"optimizer.learning_rate": config["learning_rate"]})
    started, accuracies = time.time(), []
    for epoch in range(1, searched.epochs + 1):
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(planned, epoch)
        means = training.train_epoch(training_images)
        accuracies.append(training.validate(held_out))
        if epoch == searched.epochs:  # for the benchmark alone, and before the last report, which may block
            told = {"started": started, "ended": time.time(), "accuracies": accuracies}
            Path(config["folder"], f"trial-{config['trial_id']}.json").write_text(json.dumps(told))
        ray.train.report({"epoch": epoch, "val_accuracy": accuracies[-1], **means})


def loaders(searched: Searched) -> tuple[Loader, Loader]:
    """Of the training images that are kept, and of those that are held out."""
    dataset, data = DATASETS[searched.data], searched.config.data
    decoded = dataset.read(searched.root, "train", data.image_size)
    kept, held_out = split(decoded.labels, data.held_out, data.split_seed)
    assert dataset.mean is not None, "known by name"
    assert dataset.std is not None, "known by name"
    crops = augmenting(dataset.mean, dataset.std, data.image_size, data.flip)
    training = PlainImages(decoded.images[kept], decoded.labels[kept], crops)
    plain = PlainImages(decoded.images[held_out], decoded.labels[held_out], unaugmented(dataset.mean, dataset.std))
    return training_loader(training, BATCH_SIZE), DataLoader(plain, batch_size=VALIDATION_BATCH, num_workers=0)


def plain_training(searched: Searched, config: dict[str, Any]) -> PlainTraining:
    classes = DATASETS[searched.data].num_classes
    assert classes is not None, "known by name"
    settings = PlainSettings(queue_size=searched.queue_size, **{name: config[name] for name in SPACE})
    teacher = load_network(searched.checkpoint, searched.teacher, classes)
    return PlainTraining(searched.student, teacher, classes, settings, torch.device("cpu"))


if __name__ == "__main__":
    from benchmarks import plain_search  # by its name, so that Ray's workers import it too

    with open(sys.argv[1], "rb") as file:
        plain_search.search(pickle.load(file), Path(sys.argv[2]))

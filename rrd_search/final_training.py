"""Final training: a config's teacher, its students from several seeds, their test accuracy, and the record of it."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from rrd_search.cluster import Cluster, check_fits, chosen_cluster, settled, this_machine
from rrd_search.epoch_display import EpochDisplay
from rrd_search.final_request import FinalRequest, seeded
from rrd_search.final_results import TestResult, mean_and_spread, measure, read_result, show_results
from rrd_search.progress import percent, say
from rrd_search.record import PATIENCE_SECONDS, Recorder
from rrd_search.request import held
from rrd_search.retold import tell_epoch
from rrd_search.tracking import shown_uri, store_id
from trainables.config import TrialConfig
from trainables.data.parts import load_test, load_training
from trainables.mirror import Mirror
from trainables.resources import Resources
from trainables.result import FILES, Report, finished_report
from trainables.teacher import TeacherFile, load_teacher, make_teacher, stored_teacher, with_weights
from trainables.trial import run
from trainables.worker import Task

RECORDED = "recorded.json"  # how many seeds are trained, tested and in MLflow, and in which


class FinalTraining:
    """One run of the command. It goes on where an earlier one stopped; seeds that are done are not done again."""

    def __init__(self, request: FinalRequest, console: Console) -> None:
        self.request, self.console = request, console
        self.config = request.config  # its teacher's weights may come later
        self.seeds = range(request.seeds)
        self.resources = Resources()
        self.cluster = Cluster(chosen_cluster(request.address))
        self.cluster.check()

    @property
    def folder(self) -> Path:
        """For one name and config, whatever the number of seeds and workers."""
        return self.request.places.storage / "final" / f"{self.request.name}-{self.config.config_hash}"

    def run(self) -> int:
        """Train, test, record and show what is not done yet. The exit code."""
        self._say_what()
        if self.cluster.is_here:  # known before anything is trained or started
            self.resources = self._resources([this_machine()], "this machine")
        self.config = self._with_teacher(self.config)
        with held(self.folder):
            results = self._known_results() or self._results()
        show_results(self.console, self.config, results)
        say(self.console, f"students: {self.folder}/seed-*/student.safetensors")
        say(self.console, f"recorded: {shown_uri(self.request.mlflow_uri)}   (experiment {self.experiment})")
        return 0

    @property
    def experiment(self) -> str:
        """In MLflow; another config of the same name is another experiment."""
        return f"{self.folder.name}-final"

    def _say_what(self) -> None:
        config, places = self.request.config, self.request.places
        images = load_training(config.data, places.storage, places.data_root)
        load_test(config.data, places.storage, places.data_root)  # is it there? looked at by nothing before ``_test``
        teacher = f"{config.teacher.architecture} teaches {config.student}" if config.needs_teacher else config.student
        say(
            self.console,
            f"{self.request.name}: {teacher} on {config.data.name}, all {len(images.train_ids)} training images, "
            f"{len(self.seeds)} seeds of {config.epochs} epochs",
        )

    def _resources(self, nodes: list[dict[str, float]], where: str) -> Resources:
        request = self.request
        cpus = request.cpus_per_worker
        if cpus is None:
            cpus = max(1, (os.cpu_count() or 1) // request.workers) if self.cluster.is_here else 1
        resources = settled(request.workers, cpus, request.gpus_per_worker, nodes)
        check_fits(resources, nodes, where)
        return resources

    @contextmanager
    def _workers(self) -> Iterator[None]:
        """Ray, where there is more than one, or a cluster."""
        if self.request.workers == 1 and self.cluster.is_here:
            yield
            return
        say(self.console, self.cluster.entry)
        with self.cluster as cluster:
            cluster.join()
            if not cluster.is_here:
                cluster.await_servers(partial(say, self.console))
                self.resources = self._resources([*cluster.nodes(), *cluster.startable()], "the cluster")
            yield

    def _with_teacher(self, config: TrialConfig) -> TrialConfig:
        """The config with the hash of its teacher's weights; the teacher lies in the storage then."""
        places = self.request.places
        if not config.needs_teacher:
            return config
        if self.request.checkpoint is not None:
            return with_weights(config, load_teacher(config, places, self.request.checkpoint).weights)
        if config.teacher.weights is not None:
            stored_teacher(config, places)
            return config
        with EpochDisplay(self.console, "training the teacher", config.teacher.epochs) as display:
            for said in make_teacher(config, places, self._device()):
                if isinstance(said, TeacherFile):
                    return with_weights(config, said.weights)
                display.epoch(said.epoch, "")
        raise AssertionError("the last thing that is said of a teacher is its file")

    def _device(self) -> torch.device:
        """Of what runs in this process, whatever the workers have."""
        return torch.device("cuda" if self.request.gpus_per_worker != 0 and torch.cuda.is_available() else "cpu")

    def _known_results(self) -> list[TestResult]:
        """Those of an earlier run, where it did all that is asked for; else none."""
        path = self.folder / RECORDED
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("seeds", 0) < len(self.seeds) or known.get("store") != store_id(self.request.mlflow_uri):
            return []
        found = [read_result(self._seed_folder(number)) for number in self.seeds]
        results = [result for result in found if result is not None]
        return results if len(results) == len(found) else []

    def _results(self) -> list[TestResult]:
        """Train every seed, then open the test set for each; all of it recorded."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self.config.to_yaml())
        recorder = Recorder(self.folder, self.request.mlflow_uri, self.experiment)
        tags = {"rrd.config_hash": self.config.config_hash, "rrd.seeds": str(len(self.seeds))}
        varied = ("seed", "data.schedule_seed")
        recorder.start_search({name: value for name, value in self.config.flat().items() if name not in varied}, tags)
        state, measured = "stopped", {}
        try:
            with self._workers():
                self._train(recorder)
            results = [self._test(number, recorder) for number in self.seeds]
            mean, spread = mean_and_spread(results)
            measured = {"test_accuracy": mean} | ({} if math.isnan(spread) else {"test_accuracy_spread": spread})
            state = "complete"
        except ValueError:
            state = "failed"
            raise
        finally:
            recorder.end_search(measured, {}, state)
            missing = recorder.close(PATIENCE_SECONDS if state == "complete" else 5.0)
            if missing:
                say(self.console, missing)
        if not missing:
            told = {"seeds": len(self.seeds), "store": store_id(self.request.mlflow_uri), **measured}
            (self.folder / RECORDED).write_text(json.dumps(told))
        return results

    def _train(self, recorder: Recorder) -> None:
        epochs, total = self.config.epochs, self.config.epochs * len(self.seeds)
        with EpochDisplay(self.console, "final training", total) as display:
            for number in self.seeds:
                reports = self._reports(number, recorder)
                new = finished_report(self._seed_folder(number)) is None
                for report in reports:
                    told = f"seed {number}, training loss {report['train_loss']:.3f}"
                    display.epoch(number * epochs + int(report["epoch"]), told, new)
                    self._hear(number, report, recorder)
                self._fetch(number)
                display.say(f"seed {number} is trained")

    def _reports(self, number: int, recorder: Recorder) -> Iterator[Report]:
        """Epoch by epoch; of a seed that an earlier run has trained, all epochs at once."""
        config, folder = seeded(self.config, number), self._seed_folder(number)
        tags = {"rrd.config_hash": config.config_hash}
        recorder.start_trial(folder.name, {"seed": config.seed, "data.schedule_seed": config.data.schedule_seed}, tags)
        self._fetch(number)
        if (known := finished_report(folder)) is not None:
            return iter([known])
        return run(Task(config=config, places=self.request.places, folder=folder), self.resources, self.cluster.is_here)

    def _fetch(self, number: int) -> None:
        """What another machine has made of the seed, where the storage is at a URI."""
        for pattern in FILES:
            Mirror(self.request.places).pull_tree(self._seed_folder(number), pattern)

    def _hear(self, number: int, report: Report, recorder: Recorder) -> None:
        for metrics in report["curve"]:
            tell_epoch(recorder, self._seed_folder(number).name, metrics)
        if not math.isfinite(report["train_loss"]):
            reason = f"the training loss diverged in epoch {int(report['epoch'])}"
            recorder.end_trial(self._seed_folder(number).name, "failed", report["summary"], {"rrd.failure": reason})
            raise ValueError(f"seed {number}: {reason}; a smaller optimizer.learning_rate may help")

    def _test(self, number: int, recorder: Recorder) -> TestResult:
        folder = self._seed_folder(number)
        result = read_result(folder)
        if result is None:
            result = measure(folder, seeded(self.config, number), self.request.places, self._device())
        known = finished_report(folder)
        assert known is not None, "a seed is tested when it is trained"
        recorder.end_trial(folder.name, "complete", {**known["summary"], **result.metrics})
        say(self.console, f"seed {number}: {percent(result.accuracy)} of {result.images} test images")
        return result

    def _seed_folder(self, number: int) -> Path:
        return self.folder / f"seed-{number}"

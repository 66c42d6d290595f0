"""From a checked request to the closing tables: data, teacher, cluster, trials, champion."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from rrd_search.begun import close, end_search, finished, open_study, send_rest, with_teacher
from rrd_search.cluster import Cluster, check_fits, has_room, settled, this_machine
from rrd_search.flags import AUTO
from rrd_search.optuna_searcher import Study
from rrd_search.packing import Measured, choose, preflight
from rrd_search.progress import Progress, percent, redraws, say
from rrd_search.record import Recorder
from rrd_search.request import Request
from rrd_search.retold import retell
from rrd_search.search import SPACE_ERRORS, Plan, SearchRun
from rrd_search.search_file import SearchFile, read_search_file, teacher_facts
from rrd_search.space import Space
from rrd_search.space_check import check
from rrd_search.students import forget_stopped
from rrd_search.tuner import run_trials
from trainables.config import TrialConfig
from trainables.data.parts import load_training
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.resources import Resources
from trainables.teacher import TeacherFile, TeacherProgress, load_teacher, make_teacher, stored_teacher
from trainables.teacher_table import table_bytes


class Launch:
    """One run of the driver. ``study`` is None where the search was not begun yet."""

    def __init__(
        self, request: Request, space: Space, study: Study | None, trials: int, cluster: Cluster, console: Console
    ) -> None:
        self.request, self.space, self.study = request, space, study
        self.trials, self.cluster, self.console = trials, cluster, console
        self.options = request.options
        self.started = time.time()

    def run(self) -> int:
        """Run what is left of the search. The exit code: that of the signal that stopped it, else 0."""
        self._say_what()
        cluster = self.cluster
        if not cluster.is_here:
            self._join()
            cluster.await_servers(partial(say, self.console))
        nodes = [this_machine()] if cluster.is_here else [*cluster.nodes(), *cluster.startable()]
        resources = self._resources(nodes, "this machine" if cluster.is_here else "the cluster")
        facts = self._teacher(resources)
        resources = self._packed(resources, facts)
        self.space = with_teacher(self.space, facts)
        self.study = study = self.study or open_study(self.request, self.space, self.console)
        self._search_file(facts).write(self.request.folder)
        mirror = Mirror(self.request.places)
        mirror.push(self.request.folder / "search.yaml")
        recorder = Recorder(self.request.folder, self.request.mlflow_uri, self.request.name)
        recorder.start_search(*self._recorded(facts))
        retell(recorder, [*study.references(), *study.trials()], self.request.folder)
        if cluster.is_here:
            self._join()
        run = self._trials(study, recorder, resources, cluster)
        cluster.leave()
        code = self._end(study, recorder, facts, run.signals.exit_code)
        if len(run.space_errors) >= SPACE_ERRORS:
            raise ValueError(run.space_errors[-1])
        return code

    def _join(self) -> None:
        say(self.console, self.cluster.entry)
        self.cluster.join()

    def _say_what(self) -> None:
        base, places = self.space.base, self.request.places
        images = load_training(base.data, places.storage, places.data_root)
        if base.batch_size > len(images.train_ids):
            rule = f"at most {len(images.train_ids)}, the number of training images"
            raise ValueError(f"batch_size must be {rule}, got {base.batch_size}")
        where = f"{places.remote}/{self.request.name}" if places.remote else self.request.folder
        self.console.print(
            f"{self.request.name}: {base.teacher.architecture} teaches {base.student} on {base.data.name} "
            f"({len(images.part.classes)} classes, {len(images.train_ids)} images train, "
            f"{len(images.held_out_ids)} are held out); all results in {where}",
            highlight=False,
            soft_wrap=True,
        )
        facts = check(self.space)
        if facts.pinned:
            say(self.console, f"pinned, not searched: {', '.join(facts.pinned)}")
        for point, why in facts.left_out.items():
            say(self.console, f"left out: {point} ({why})")
        table_gb = table_bytes(base, len(images.train_ids)) / 2**30
        if table_gb > places.table_gb and not self.options.independent_schedules:
            told = f"the teacher's table would take {table_gb:.3g} GiB, --table-gb allows {places.table_gb:g}"
            say(self.console, f"{told}: the later epochs take the live teacher")

    def _resources(self, nodes: list[dict[str, float]], where: str) -> Resources:
        options = self.options
        share = None if options.gpus_per_worker == AUTO else options.gpus_per_worker
        resources = settled(options.workers_per_trial, options.cpus_per_worker, share, nodes)
        if options.gpus_per_worker == AUTO and not resources.gpus_per_worker:
            raise ValueError(f"--gpus-per-worker auto: {where} has no GPU; on CPUs each trial has a core of its own")
        check_fits(resources, nodes, where)
        return resources

    def _packed(self, resources: Resources, teacher: dict[str, Any]) -> Resources:
        """The resources with the share of a GPU that is measured to be best, where that is asked for."""
        if self.options.gpus_per_worker != AUTO:
            return resources
        config = with_teacher(self.space, teacher).base
        say(self.console, "measuring how many students share a GPU best ...")
        measured = []
        for one in self._preflight(config):
            measured.append(one)
            told = f"{one.images_per_second:,.0f} images a second, {one.used_bytes / 2**30:.1f} GiB"
            say(self.console, f"  {one.students} at once: {told}")
        share = 1 / choose(measured)
        say(self.console, f"--gpus-per-worker {share:g}")
        return replace(resources, gpus_per_worker=share)

    def _preflight(self, config: TrialConfig) -> Iterator[Measured]:
        if self.cluster.is_here:
            yield from preflight(config, self.request.places, "cuda")
            return
        task: Any = ray.remote(preflight).options(num_cpus=1, num_gpus=1, num_returns="streaming")
        for measured in task.remote(config, self.request.places, "cuda"):
            yield ray.get(measured)

    def _teacher(self, resources: Resources) -> dict[str, Any]:
        """Facts of the base's teacher: the one that the search was begun with, or from a checkpoint, or trained now."""
        base, places = self.space.base, self.request.places
        begun, checkpoint = read_search_file(self.request.folder), self.options.teacher_checkpoint
        weights = begun.teacher.get("weights") if begun is not None else None
        if begun is not None and checkpoint is None and base.teacher.weights == weights:
            try:
                stored_teacher(base, places)
                return begun.teacher
            except ValueError as error:
                if not begun.teacher.get("trained_here"):
                    raise
                say(self.console, f"{str(error).partition(';')[0]}: it is trained again")
        elif base.teacher.weights is not None and checkpoint is None:
            checkpoint = stored_teacher(base, places)
        if checkpoint is not None:
            return teacher_facts(load_teacher(base, places, checkpoint))
        facts = self._trained_teacher(base, places, resources)
        if base.teacher.weights not in (None, facts["weights"]):
            told = f"trained again, the teacher is {facts['weights']}, and the search's is {base.teacher.weights}"
            raise ValueError(f"{told}; another --name starts another search")
        return facts

    def _trained_teacher(self, base: TrialConfig, places: Places, resources: Resources) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        try:
            for said in self._make_teacher(base, places, resources):
                if isinstance(said, TeacherProgress):
                    self._say_teacher(said)
                else:
                    facts = teacher_facts(said)
        except KeyboardInterrupt:
            say(self.console, "\nstopped: the same command goes on from the teacher's last checkpoint")
            raise
        return facts

    def _make_teacher(
        self, base: TrialConfig, places: Places, resources: Resources
    ) -> Iterator[TeacherProgress | TeacherFile]:
        if self.cluster.is_here:
            yield from make_teacher(base, places, torch.device("cuda" if resources.gpus_per_worker else "cpu"))
            return
        if not has_room(replace(resources, workers=1), self.cluster.nodes()):
            say(self.console, "waiting for a node to train the teacher on ...")
        task: Any = ray.remote(_make_teacher_there)
        request = {"num_cpus": resources.cpus_per_worker, "num_gpus": min(resources.gpus_per_worker, 1)}
        try:
            for said in task.options(**request, num_returns="streaming").remote(base, places):
                yield ray.get(said)
        except RayTaskError as error:  # whose text is the whole traceback
            raise error.cause from None
        except RayError as error:
            raise OSError(f"the teacher's training was lost: {' '.join(str(error).split())[:200]}") from error

    def _say_teacher(self, said: TeacherProgress) -> None:
        line = f"training the teacher: epoch {said.epoch}/{said.epochs}, {percent(said.val_accuracy)} held-out"
        end = "\r" if redraws(self.console) and said.epoch < said.epochs else "\n"
        self.console.print(line, end=end, highlight=False)

    def _search_file(self, teacher: dict[str, Any]) -> SearchFile:
        options = self.options
        return SearchFile(
            space=options.space,
            trials=self.trials,
            sampler=options.sampler,
            scheduler=options.scheduler,
            audit_stops=options.audit_stops,
            seed=options.seed,
            data_root=str(self.request.places.data_root),
            teacher=teacher,
            independent_schedules=options.independent_schedules,
            warm_start=self.study.warm_start if self.study else None,
        )

    def _recorded(self, teacher: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The parent run's params, which are what is fixed, and its tags."""
        searched = check(self.space).searched
        params = {name: value for name, value in self.space.base.flat().items() if name not in searched}
        tags = {"rrd.space": self.options.space, "rrd.sampler": self.options.sampler, "rrd.trials": str(self.trials)}
        tags |= {"rrd.scheduler": self.options.scheduler, "rrd.seed": str(self.options.seed)}
        tags |= {"rrd.independent_schedules": str(self.options.independent_schedules)}
        return params, tags | {f"rrd.teacher_{name}": str(value) for name, value in teacher.items()}

    def _trials(self, study: Study, recorder: Recorder, resources: Resources, cluster: Cluster) -> SearchRun:
        hours = self.options.hours
        plan = Plan(
            folder=self.request.folder,
            places=self.request.places,
            trials=self.trials,
            scheduler=self.options.scheduler,
            audit_stops=self.options.audit_stops,
            epochs=self.space.base.epochs,
            resources=resources,
            max_concurrent=self.options.max_concurrent,
            hang_seconds=60 * self.options.hang_minutes,
            checkpoint_bytes=int(self.options.checkpoint_gb * 2**30),
            deadline=self.started + 3600 * hours if hours else None,
        )
        known = [*study.trials(), *study.references()]
        done = sum(trial.state != "running" for trial in known)
        best = study.best()
        total = self.trials + len(check(self.space).references)
        name = self.request.name
        with Progress(self.console, name=name, total=total, done=done, best=best.value if best else None) as progress:
            run = SearchRun(plan, study, recorder, progress, cluster)
            run_trials(run)
        run.close()
        if plan.resources.workers > 1:
            forget_stopped(self.request.folder, study, Mirror(self.request.places))
        return run

    def _end(self, study: Study, recorder: Recorder, teacher: dict[str, Any], code: int) -> int:
        running = any(trial.state == "running" for trial in [*study.trials(), *study.references()])
        whole = finished(study, self.space, self.trials) or (study.exhausted and not running)
        end_search(recorder, study, whole)
        send_rest(recorder, self.request, study, self.console, hurried=code != 0 and not whole)
        close(self.console, self.request, study, teacher)
        if whole:
            return 0
        say(self.console, "\nThe search is not finished. The same command goes on with it.")
        return code


def _make_teacher_there(base: TrialConfig, places: Places) -> Iterator[TeacherProgress | TeacherFile]:
    """On a node of the cluster, with the GPU that Ray gave it."""
    yield from make_teacher(base, places, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

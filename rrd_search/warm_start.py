"""Warm start: the trials of another search, or of an MLflow experiment of one, that guide this search's sampler.

They are history only: in no table, never the winner, and their configs may be proposed again.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, create_trial

from rrd_search.generations import STATE_OF
from rrd_search.marks import HISTORY, REFERENCE_PREFIX, WARM_START
from rrd_search.optuna_searcher import OBJECTIVE, Study
from rrd_search.quiet import quiet_log, quiet_optuna
from rrd_search.recorded_trials import read_trials
from rrd_search.request import MLFLOW, NAME, Request
from rrd_search.samplers import draw
from rrd_search.space import InvalidCombination, one_line
from rrd_search.space_points import SEEDS, Point, point_of, seeds_of
from rrd_search.storage import bring
from rrd_search.tracking import PARENT_TAG, SEARCH_TAG, STATE_TAG, TRIAL_TAG, plain_reason, quiet_client, shown_uri
from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig

if TYPE_CHECKING:  # importing mlflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATES = ("complete", "pruned")  # that tell a sampler something
REASONS = 3  # told, why trials are left out
CHANGED = "rrd.changed."  # before a param's name: the tag of its newest value


@dataclass(frozen=True, kw_only=True)
class PastTrial:
    """A trial of another search; ``values``, ``seeds`` and ``config_hash`` as ``point_of`` takes them."""

    trial_id: str
    state: str
    value: float | None
    curve: Callable[[], Mapping[int, float]]
    values: Mapping[str, object]
    seeds: dict[str, int]
    config_hash: str

    def seeded(self, config: TrialConfig) -> TrialConfig:
        return config.with_values(self.seeds)


def check_source(request: Request) -> None:
    """ValueError where trials to start from are asked for, and there are none: before anything else takes its time."""
    source = request.options.warm_start
    if source is None:
        return
    if not source.startswith(MLFLOW):
        read_trials(_folder(source, request))
        return
    _in_mlflow(source, request, lambda client, experiment_id: [])


def warm_start(study: Study, request: Request) -> str:
    """Give a new study its history; one line that says what became of it. What a kill left out is added.

    Trials count that are points of its space but for the seeds. ValueError where they cannot be read.
    """
    source = request.options.warm_start
    taken: list[FrozenTrial] = []
    left_out: Counter[str] = Counter()
    past = _past(source, request)
    with quiet_log(), _plainly(source, request):
        for trial in past:
            try:
                point = point_of(study.space, trial.values, trial.config_hash, trial.seeded)
            except InvalidCombination as error:
                left_out[one_line(error)] += 1
            else:
                taken.append(_history(source, trial, point))
    known = [trial.user_attrs.get(HISTORY) for trial in study.searched.get_trials(deepcopy=False)]
    with quiet_optuna():
        study.searched.add_trials([trial for trial in taken if trial.user_attrs[HISTORY] not in known])
    study.searched.set_user_attr(WARM_START, source)
    study.read_all()
    return f"warm start from {source}: {len(taken)} of {len(past)} trials guide the sampler" + _reasons(left_out)


def _reasons(left_out: Counter[str]) -> str:
    if not left_out:
        return ""
    told = [f"{count} with {why}" for why, count in left_out.most_common(REASONS)]
    more = ["other reasons"] if len(left_out) > REASONS else []
    return f", {left_out.total()} are left out: {'; '.join(told + more)}"


def _history(source: str, trial: PastTrial, point: Point) -> FrozenTrial:
    """With its last epoch, which is all that samplers look at."""
    if trial.state == "complete" and trial.value is not None:
        last = {point.config.epochs: trial.value}
    else:
        last = dict(sorted(trial.curve().items())[-1:])
    with quiet_optuna():
        return create_trial(
            state=STATE_OF[trial.state],
            value=trial.value,
            params=point.params,
            distributions=point.distributions,
            user_attrs={HISTORY: {"of": source, "trial_id": trial.trial_id, "config": point.config.to_dict()}},
            intermediate_values=last,
        )


def _past(source: str, request: Request) -> list[PastTrial]:
    if source.startswith(MLFLOW):
        return _in_mlflow(source, request, _recorded)
    records = read_trials(_folder(source, request))
    return [_of_study(record) for record in records if record.state in STATES and not record.reference]


def _folder(source: str, request: Request) -> Path:
    if not NAME.fullmatch(source):
        return Path(source)
    bring(request.places, source)
    return request.places.storage / source


def _of_study(record: TrialRecord) -> PastTrial:
    config = record.config
    return PastTrial(
        trial_id=record.trial_id,
        state=record.state,
        value=record.value,
        curve=lambda: record.curve,
        values=config.flat() | record.params,
        seeds=seeds_of(config),
        config_hash=config.config_hash,
    )


def _in_mlflow(
    source: str, request: Request, read: Callable[["MlflowClient", str], list[PastTrial]]
) -> list[PastTrial]:
    """What ``read`` finds in the experiment. ValueError where there is none, or MLflow does not answer."""
    uri, name = request.mlflow_uri, source.removeprefix(MLFLOW)
    missing = f"--warm-start {source}: no such experiment in MLflow at {shown_uri(uri)}"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ValueError(missing)
    with _plainly(source, request):
        client = quiet_client(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise ValueError(missing)
        return read(client, experiment.experiment_id)


@contextmanager
def _plainly(source: str, request: Request) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # of MLflow, of its store, of the connection
        where = f"MLflow at {shown_uri(request.mlflow_uri)}"
        raise ValueError(f"--warm-start {source}: {where}: {plain_reason(error)}") from error


def _recorded(client: "MlflowClient", experiment_id: str) -> list[PastTrial]:
    """As the recorder wrote them: what is fixed is with the search's run, what is suggested with each trial's."""
    runs: list[Run] = []
    token: str | None = None
    while token is None or token:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token or ""
    searches = {run.info.run_id: run for run in runs if SEARCH_TAG in run.data.tags and PARENT_TAG not in run.data.tags}
    past = []
    for run in sorted(runs, key=lambda run: run.data.tags.get(TRIAL_TAG, "")):
        tags = run.data.tags
        search = searches.get(tags.get(PARENT_TAG, ""))
        wanted = tags.get(STATE_TAG) in STATES and not tags.get(TRIAL_TAG, REFERENCE_PREFIX).startswith(
            REFERENCE_PREFIX
        )
        if search is not None and wanted:
            past.append(_of_runs(client, search, run))
    return [trial for trial in past if trial.value is not None or trial.state == "pruned"]


def _of_runs(client: "MlflowClient", search: "Run", run: "Run") -> PastTrial:
    trial_id, state = run.data.tags[TRIAL_TAG], run.data.tags[STATE_TAG]
    changed = {name: value for name, value in search.data.tags.items() if name.startswith(CHANGED)}
    fixed = search.data.params | {name.removeprefix(CHANGED): value for name, value in changed.items()}
    values: dict[str, Any] = fixed | run.data.params
    seeds = {name: int(values[name]) for name in SEEDS}
    if search.data.tags.get("rrd.independent_schedules") == "True":
        seeds["data.schedule_seed"] = draw(seeds["data.schedule_seed"], trial_id)
    metrics = run.data.metrics
    value = metrics.get("final_val_accuracy" if state == "complete" else OBJECTIVE, math.nan)
    return PastTrial(
        trial_id=trial_id,
        state=state,
        value=value if math.isfinite(value) else None,
        curve=lambda: {point.step: point.value for point in client.get_metric_history(run.info.run_id, OBJECTIVE)},
        values=values | seeds,
        seeds=seeds,
        config_hash=run.data.tags["rrd.config_hash"],
    )

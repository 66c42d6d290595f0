"""The best student in MLflow: a model that loads without this project, its files, and the alias ``champion``.

In: the student, an input, and the exported folder. Out: a registered model version, the same for the same student.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rrd_search.tracking import SEARCH_TAG, SERVERS, TRIAL_TAG, experiment_of, plain_reason, quiet_client, shown_uri

if TYPE_CHECKING:  # importing torch and mlflow takes seconds
    import numpy as np
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
WEIGHTS = "student.safetensors"
STUDENT_TAG = "rrd.student_sha256"
LOGITS_TOLERANCE = 1e-3  # the exported graph may fuse what the module does step by step


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The best student of a search, as it goes to MLflow.

    ``model`` takes ``input_example`` [B, ...] with B of 2 or more (a B of 1 would be exported as a constant) and
    returns logits [B, C]. ``files`` is a folder with ``student.safetensors``, ``config.yaml`` and what else explains
    it. ``name`` is that of the registered model.
    """

    trial_id: str
    model: torch.nn.Module
    input_example: np.ndarray
    files: Path
    name: str

    @property
    def student_sha256(self) -> str:
        return hashlib.sha256((self.files / WEIGHTS).read_bytes()).hexdigest()


def log_champion(tracking_uri: str, search: str, champion: Champion) -> str:
    """Log, register and alias the best student on the run of the search; returns its URI ``models:/NAME/VERSION``.

    Waits for MLflow. Repeatable: the same student twice changes nothing, and a step that was cut off is made whole.
    RuntimeError, in one line, when MLflow does not take it.
    """
    assert len(champion.input_example) >= 2, "the input example must hold 2 images or more"
    try:
        client = quiet_client(tracking_uri)
        version = _registered(client, champion) or _register(client, search, champion)
        client.set_registered_model_alias(champion.name, ALIAS, version.version)
    except RuntimeError:
        raise
    except Exception as error:  # MLflow's own, or whatever the client of its artifacts' store raises
        raise RuntimeError(
            f"MLflow at {shown_uri(tracking_uri)} did not take the champion: {plain_reason(error)}"
        ) from error
    return f"models:/{champion.name}/{version.version}"


def _registered(client: MlflowClient, champion: Champion) -> ModelVersion | None:
    versions = client.search_model_versions(f"name='{champion.name}'")
    return next((v for v in versions if v.tags.get(STUDENT_TAG) == champion.student_sha256), None)


def _register(client: MlflowClient, search: str, champion: Champion) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    tags = {STUDENT_TAG: champion.student_sha256, TRIAL_TAG: champion.trial_id}
    experiment_id = experiment_of(client, search)
    run_id = _run_of(client, experiment_id, search)
    client.log_artifacts(run_id, str(champion.files), artifact_path=ALIAS)
    model_id = _logged(client, experiment_id, champion) or _log(client, experiment_id, run_id, champion)
    for key, value in tags.items():
        client.set_tag(run_id, key.replace("rrd.", "rrd.champion_"), value)
    try:
        client.create_registered_model(champion.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A server looks the model up by its id. A database is asked by this process, and there MLflow would look the id up
    # in the store of the process's global tracking URI, which is not ours to set: it gets the place itself.
    by_id = client.tracking_uri.split(":")[0] in SERVERS
    source = f"models:/{model_id}" if by_id else client.get_logged_model(model_id).artifact_location
    return client.create_model_version(champion.name, source, run_id, tags=tags, model_id=model_id)


def _run_of(client: MlflowClient, experiment_id: str, search: str) -> str:
    runs = client.search_runs([experiment_id], f"tags.`{SEARCH_TAG}` = '{search}'", order_by=["start_time ASC"])
    if not runs:
        raise RuntimeError(f"MLflow has no run of the search {search} yet: what was recorded has not arrived there")
    return str(runs[0].info.run_id)


def _logged(client: MlflowClient, experiment_id: str, champion: Champion) -> str | None:
    """The id of this student's whole model, if a step that was cut off left one; its torsos are deleted."""
    whole = None
    for model in client.search_logged_models([experiment_id]):
        if model.tags.get(STUDENT_TAG) == champion.student_sha256:
            if model.status == "READY":
                whole = str(model.model_id)
            else:
                client.delete_logged_model(model.model_id)
    return whole


def _log(client: MlflowClient, experiment_id: str, run_id: str, champion: Champion) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    tags = {STUDENT_TAG: champion.student_sha256, TRIAL_TAG: champion.trial_id}
    logged = client.create_logged_model(experiment_id, "student", run_id, tags)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model = Model(
            artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id
        )
        _save(champion, path, model)
        client.log_model_artifacts(logged.model_id, str(path))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _save(champion: Champion, path: Path, mlflow_model: object) -> None:
    """Write the model as a graph (torch.export), which loads without our classes and without pickle, for any B."""
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = copy.deepcopy(champion.model).cpu().eval()
    example = torch.from_numpy(champion.input_example)
    with torch.no_grad():
        logits = model(example)
    shapes = [(-1, *example.shape[1:]), (-1, *logits.shape[1:])]
    dtypes = [champion.input_example.dtype, logits.numpy().dtype]
    inputs, outputs = (Schema([TensorSpec(dtype, shape)]) for dtype, shape in zip(dtypes, shapes, strict=True))
    mlflow.pytorch.save_model(
        model,
        path,
        mlflow_model=mlflow_model,
        signature=ModelSignature(inputs, outputs),
        input_example=champion.input_example,
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "numpy"],  # given, or MLflow runs it to find out
        serialization_format="pt2",
    )
    saved = torch.export.load(path / "data" / "model.pt2").module()
    with torch.no_grad():
        for batch in (example, example[:1]):
            error = (saved(batch) - logits[: len(batch)]).abs().max().item()
            assert error <= LOGITS_TOLERANCE, f"the exported student differs by {error} for a batch of {len(batch)}"

"""What an MLflow server has recorded of a search, as JSON: recorded.py URI EXPERIMENT."""

import json
import sys

from mlflow import MlflowClient


def main(uri: str, name: str) -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    told = [
        {
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "trial": run.data.tags.get("rrd.trial_id"),
            "state": run.data.tags.get("rrd.state"),
            "status": run.info.status,
            "curve": [
                [point.step, point.value] for point in client.get_metric_history(run.info.run_id, "val_accuracy")
            ],
        }
        for run in runs
    ]
    print(json.dumps({"runs": told, "models": [model.name for model in client.search_registered_models()]}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""python aftermath.py NAME TRIALS WITNESS: what is wrong with what a search left, a line each; for its cluster's head.

Held against each other: the study, MLflow's runs, what another machine finds in the storage at a URI, and what the
hosts' witnesses wrote in a folder each.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "faults"))

from ledger import Findings, examine_runs, repeated, trials_in

from rrd_search.champion import ALIAS
from rrd_search.command import default_storage, default_tracking_uri
from rrd_search.storage import bring, places_of
from rrd_search.tracking import TRIAL_TAG, quiet_client
from trainables.result import RESULT, STUDENTS


def main(name: str, trials: int, witness: Path) -> None:
    told = trials_in(places_of(default_storage()).storage / name, name)
    found = Findings()
    found.lost += [f"trial {one} is {trial.state}" for one, trial in told.items() if trial.state != "complete"]
    if len(told) != trials:
        found.lost.append(f"{len(told)} trials, not {trials}")
    seen = [json.loads(line) for file in witness.glob("*/witness.jsonl") for line in file.read_text().splitlines()]
    found.repeated += repeated(sorted(seen, key=lambda line: line["time"]))
    uri = default_tracking_uri()
    assert uri is not None, "the nodes' environment names a server"
    examine_runs(uri, name, told, found)
    ranked = sorted(told, key=lambda one: -told[one].curve[max(told[one].curve)])
    champion = quiet_client(uri).get_model_version_by_alias(name, ALIAS)
    if champion.tags[TRIAL_TAG] != ranked[0]:
        found.missing.append(
            f"the student of trial {ranked[0]} in MLflow, which has that of {champion.tags[TRIAL_TAG]}"
        )
    with tempfile.TemporaryDirectory() as other:
        os.environ["XDG_CACHE_HOME"] = other  # as on another machine, which has nothing yet
        places = places_of(default_storage())
        bring(places, name)
        kept = [places.storage / name / "trials" / ranked[0] / student for student in STUDENTS]
        found.missing += [f"{file} of the best trial" for file in kept if not file.is_file()]
        if trials_in(places.storage / name, name) != told:
            found.missing.append("the study's snapshot differs from the study")
        for trial_id, trial in told.items():
            folder = places.storage / name / "trials" / trial_id
            curve = json.loads((folder / RESULT).read_text())["curve"] if (folder / RESULT).is_file() else []
            if {metrics["epoch"]: metrics["val_accuracy"] for metrics in curve} != trial.curve:
                found.missing.append(f"the result of trial {trial_id} differs from the study")
    print("\n".join(found.lines))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

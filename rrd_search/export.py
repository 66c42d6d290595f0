"""python -m rrd_search.export: the best trial's config, student and evidence in a folder that needs nothing else."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rrd_search.command import Parser, default_storage, run_command
from rrd_search.export_check import check_students
from rrd_search.export_folder import TEACHER, replaced, write_provenance
from rrd_search.export_readme import readme
from rrd_search.progress import percent, say
from rrd_search.recorded_trials import chosen_trial, read_trials
from rrd_search.request import NAME
from rrd_search.search_file import SearchFile, data_root_of, read_search_file
from rrd_search.storage import bring, places_of
from rrd_search.student_program import CONFIG, METRICS, PROGRAM, WEIGHTS, StudentProgram, save_program
from rrd_search.students import trial_folder
from rrd_search.trial_records import TrialRecord
from trainables.data.parts import Training, load_training
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.result import FILES, Report, finished_report
from trainables.teacher import stored_teacher
from trainables.weights import load_network

PACKAGES = ("rrd-search", "torch", "torchvision", "numpy", "ray", "optuna", "mlflow", "safetensors")


def main(arguments: list[str]) -> int:
    parser = Parser("-m rrd_search.export", "Put a search's best student into a folder that loads with torch alone.")
    parser.add_argument("--name", default="quickstart", help="of the search")
    parser.add_argument("--storage", default=default_storage(), help="the search's storage: a folder, or a URI")
    parser.add_argument("--output", type=Path, default=Path("best"), help="a new folder, or an earlier export")
    parser.add_argument("--trial", metavar="ID", help="default: the best")
    parser.add_argument("--data-root", type=Path, help="folder of downloaded datasets; default: the search's")
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.name):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', at most 100, got {options.name!r}")
    console = Console()
    places = places_of(options.storage)
    bring(places, options.name)
    root = data_root_of(options.data_root, places.storage / options.name, places.data_root)
    places = replace(places, data_root=root)
    trial = chosen_trial(read_trials(places.storage / options.name), options.trial)
    output = export_trial(options.name, places, trial, options.output, partial(say, console))
    say(console, f"{options.output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    say(console, f"next:  python -m rrd_search.train {options.output} --storage {options.storage}")
    return 0


def export_trial(
    search: str,
    places: Places,
    trial: TrialRecord | None,
    output: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Put a complete trial of a search (None: the best) into ``output``, new or an earlier export; the folder's whole
    path.

    Nothing is put there before both student files have given the recorded accuracy. ValueError where the trial cannot
    be exported, or ``output`` is something else.
    """
    trial = trial or chosen_trial(read_trials(places.storage / search), None)
    with replaced(output) as folder:
        tell(f"exporting trial {trial.trial_id} of {search}, {percent(trial.value)} on the held-out images")
        source = _read_source(search, places, trial)
        _write_networks(source, folder)
        recorded = source.report["val_accuracy"]
        accuracies = check_students(folder, trial.config, source.images, recorded, tell)
        _write_texts(source, accuracies, folder)
    return output.resolve()


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What an export is made of."""

    search: str
    trial: TrialRecord
    begun: SearchFile
    folder: Path  # the trial's
    report: Report  # its last epoch, summary and curve
    images: Training
    teacher: Path | None


def _read_source(search: str, places: Places, trial: TrialRecord) -> _Source:
    search_folder = places.storage / search
    folder, config = trial_folder(search_folder, trial.trial_id), trial.config
    begun = read_search_file(search_folder)
    if begun is None:
        raise ValueError(f"{search_folder / 'search.yaml'} is missing")
    mirror = Mirror(places)
    for name in FILES:
        if not (folder / name).is_file():  # another machine has trained it
            mirror.pull(folder / name)
    report = finished_report(folder)
    if report is None or not (folder / WEIGHTS).is_file():
        kept = sorted(path.parent.name for path in search_folder.glob(f"trials/*/{WEIGHTS}"))
        rule = "only the best trials' and the references' are kept"
        raise ValueError(f"the student of trial {trial.trial_id} is not there: {rule}, which are {', '.join(kept)}")
    return _Source(
        search=search_folder.name,
        trial=trial,
        begun=begun,
        folder=folder,
        report=report,
        images=load_training(config.data, places.storage, places.data_root),
        teacher=stored_teacher(config, places) if config.needs_teacher else None,
    )


def _write_networks(source: _Source, folder: Path) -> None:
    part, config = source.images.part, source.trial.config
    student = load_network(source.folder / WEIGHTS, config.student, len(part.classes))
    shutil.copyfile(source.folder / WEIGHTS, folder / WEIGHTS)
    if source.teacher is not None:
        shutil.copyfile(source.teacher, folder / TEACHER)
    save_program(StudentProgram(student, part.mean, part.std), config.data.image_size, folder / PROGRAM)


def _write_texts(source: _Source, accuracies: dict[str, float], folder: Path) -> None:
    config = source.trial.config
    facts = _facts(source, accuracies)
    held_out, has_teacher = len(source.images.held_out_ids), source.teacher is not None
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    (folder / CONFIG).write_text(config.to_yaml())
    (folder / METRICS).write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "versions.yaml").write_text(yaml.safe_dump(versions, sort_keys=False))
    (folder / "README.md").write_text(readme(config, facts, held_out, has_teacher))
    write_provenance(folder, _provenance(source))


def _facts(source: _Source, accuracies: dict[str, float]) -> dict[str, Any]:
    """What is in metrics.json."""
    trial, part, size = source.trial, source.images.part, source.trial.config.data.image_size
    report = dict(source.report)
    curve, summary = report.pop("curve"), report.pop("summary")
    return {
        "search": source.search,
        "trial_id": trial.trial_id,
        "point": trial.point,
        "params": trial.params,
        "val_accuracy": report["val_accuracy"],
        "checked_val_accuracy": accuracies,  # of the exported files, measured while they were exported
        "last_epoch": report,
        "summary": summary,
        "curve": curve,
        "input": f"uint8 [B, 3, {size}, {size}], red, green, blue",
        "output": f"logits [B, {len(part.classes)}]",
        "mean": list(part.mean),
        "std": list(part.std),
        "classes": list(part.classes),
    }


def _provenance(source: _Source) -> dict[str, object]:
    config, images = source.trial.config, source.images
    data = config.data
    split = {
        "split_seed": data.split_seed,
        "train_images": len(images.train_ids),
        "held_out_images": len(images.held_out_ids),
        "held_out_ids_sha256": hashlib.sha256(images.held_out_ids.astype("<i8").tobytes()).hexdigest(),
    }
    teacher = {"architecture": config.teacher.architecture, **source.begun.teacher} if source.teacher else None
    if teacher and teacher.get("weights") != config.teacher.weights:  # the trial is of an earlier space
        teacher = {"architecture": config.teacher.architecture, "weights": config.teacher.weights}
    return {
        "search": source.search,
        "trial_id": source.trial.trial_id,
        "config_hash": config.config_hash,
        "data": {"name": data.name, "image_size": data.image_size, "sha256": images.part.sha256, **split},
        "teacher": teacher,
    }


if __name__ == "__main__":
    run_command(main)

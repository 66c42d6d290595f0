"""An exported folder holds what it says, loads in processes that have torch alone or trainables alone, gives the
recorded accuracy, and never takes the place of anything else."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_search import NAME

from rrd_search.export import export_trial, main
from rrd_search.recorded_trials import chosen_trial, read_trials
from rrd_search.student_program import load_program, read_student
from trainables.config import TrialConfig
from trainables.data.parts import load_training
from trainables.places import Places
from trainables.weights import weights_hash

FILES = {
    "README.md",
    "config.yaml",
    "metrics.json",
    "provenance.yaml",
    "student.pt2",
    "student.safetensors",
    "teacher.safetensors",
    "versions.yaml",
}
REFUSING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
sys.meta_path.insert(0, Refuse())
import numpy, torch
torch.set_num_threads(1)
held = numpy.load(sys.argv[1])
images, labels = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"])
"""
SHOWING = """
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & REFUSED, loaded & REFUSED
print(int((logits.argmax(1) == labels).sum()) / len(labels))
"""


def test_the_best_searched_trial_is_exported(tiny_storage: Path, exported: Path) -> None:
    trials = read_trials(tiny_storage / NAME)
    complete = [trial for trial in trials if trial.state == "complete" and not trial.reference]
    best = max(complete, key=lambda trial: trial.value or 0)
    assert {trial.state for trial in trials} == {"complete", "pruned", "failed"}
    assert len(complete) == 2
    facts = json.loads((exported / "metrics.json").read_text())
    assert {path.name for path in exported.iterdir()} == FILES
    assert TrialConfig.from_yaml(exported / "config.yaml") == best.config
    assert (facts["search"], facts["trial_id"], facts["val_accuracy"]) == (NAME, best.trial_id, best.value)
    assert [metrics["val_accuracy"] for metrics in facts["curve"]] == list(best.curve.values())
    assert facts["last_epoch"]["epoch"] == 2
    assert facts["summary"]["final_val_accuracy"] == best.value
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert facts["params"] == best.params


def test_a_trial_that_another_machine_has_trained_is_exported(tiny_storage: Path, tmp_path: Path) -> None:
    """As the driver of a search does it at the end, which has the study and no student."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny_storage, there)
    shutil.copytree(tiny_storage, here, ignore=shutil.ignore_patterns("trials", "teachers"))
    places = Places(storage=here, data_root=here, remote=f"file://{there}")
    best = chosen_trial(read_trials(here / NAME), None)
    output = export_trial(NAME, places, best, tmp_path / "best")
    assert {path.name for path in output.iterdir()} == FILES
    original = load_file(there / NAME / "trials" / best.trial_id / "student.safetensors")
    assert weights_hash(load_file(output / "student.safetensors")) == weights_hash(original)


def test_provenance_names_data_split_teacher_and_every_file(tiny_storage: Path, exported: Path) -> None:
    facts = yaml.safe_load((exported / "provenance.yaml").read_text())
    config = TrialConfig.from_yaml(exported / "config.yaml")
    images = load_training(config.data, tiny_storage, tiny_storage)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in exported.iterdir()}
    del sums["provenance.yaml"]
    assert facts["files"] == sums
    assert facts["config_hash"] == config.config_hash
    assert facts["data"]["sha256"] == images.part.sha256
    assert facts["data"]["held_out_images"] == 300
    held_out = hashlib.sha256(images.held_out_ids.astype("<i8").tobytes()).hexdigest()
    assert facts["data"]["held_out_ids_sha256"] == held_out
    assert facts["teacher"]["trained_here"] is True
    assert facts["teacher"]["weights"] == weights_hash(load_file(exported / "teacher.safetensors"))
    assert facts["teacher"]["weights"] == config.teacher.weights
    versions = yaml.safe_load((exported / "versions.yaml").read_text())
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "ray", "optuna", "mlflow", "rrd-search"} <= set(versions)


@pytest.mark.parametrize(
    ("block", "refused", "more"),
    [
        (0, {"ray", "mlflow", "optuna", "rrd_search", "search_spaces", "trainables", "safetensors"}, ""),
        (1, {"ray", "mlflow", "optuna", "rrd_search", "search_spaces"}, "normalised"),
    ],
    ids=["student.pt2 with torch alone", "student.safetensors with trainables"],
)
def test_the_readme_loads_the_student(
    tiny_storage: Path, exported: Path, tmp_path: Path, block: int, refused: set[str], more: str
) -> None:
    """Its own lines, in a process of their own, without what was not asked for, give the recorded accuracy."""
    facts = json.loads((exported / "metrics.json").read_text())
    config = TrialConfig.from_yaml(exported / "config.yaml")
    images = load_training(config.data, tiny_storage, tiny_storage)
    pixels, labels = images.part.images[images.held_out_ids], images.part.labels[images.held_out_ids]
    np.savez(tmp_path / "held_out.npz", images=pixels, labels=labels)
    alone = tmp_path / "shipped"
    shutil.copytree(exported, alone)
    lines = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[block]
    if more:
        lines += (
            f"mean, std = (torch.tensor(three).view(1, 3, 1, 1) for three in ({facts['mean']}, {facts['std']}))\n"
            "with torch.no_grad():\n    logits = student((images / 255 - mean) / std).logits\n"
        )
    program = REFUSING.format(refused=refused) + f"REFUSED = {refused!r}\n" + lines + SHOWING
    arguments = [sys.executable, "-I", "-c", program, str(tmp_path / "held_out.npz")]
    ended = subprocess.run(arguments, cwd=alone, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) == pytest.approx(facts["val_accuracy"], abs=1 / len(labels) + 1e-9)


def test_the_program_takes_any_number_of_raw_images_and_nothing_else(exported: Path) -> None:
    program, student = load_program(exported / "student.pt2"), read_student(exported)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = student(images)
        for count in (1, 2, 5):
            torch.testing.assert_close(program(images[:count]), expected[:count])
    with pytest.raises(RuntimeError, match="dtype"):
        program(images.float() / 255)
    with pytest.raises(AssertionError):
        program(torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    assert program.to("meta")(images.to("meta")).shape == (5, 10)  # nothing holds it on the CPU


def test_the_program_tells_nothing_of_the_machine_it_was_made_on(exported: Path) -> None:
    here = str(Path(__file__).parents[2]).encode()
    unpacked = exported.parent / "unpacked"
    shutil.unpack_archive(exported / "student.pt2", unpacked, "zip")
    assert not [path for path in unpacked.rglob("*") if path.is_file() and here in path.read_bytes()]


def test_an_earlier_export_is_replaced_and_nothing_else_is(
    tiny_storage: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "best"
    shutil.copytree(exported, output)
    command = ["--name", NAME, "--storage", str(tiny_storage), "--output", str(output), "--trial", "ref-student-alone"]
    assert main(command) == 0
    assert "python -m rrd_search.train" in capsys.readouterr().out
    facts = json.loads((output / "metrics.json").read_text())
    assert facts["trial_id"] == "ref-student-alone"
    assert {path.name for path in output.iterdir()} == FILES - {"teacher.safetensors"}
    assert yaml.safe_load((output / "provenance.yaml").read_text())["teacher"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]
    (output / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ValueError, match=r"best holds notes\.txt, which no export wrote"):
        main(command)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    with pytest.raises(ValueError, match=r"notes\.txt is a file"):
        main([*command, "--output", str(output / "notes.txt")])


def test_a_student_that_is_not_the_recorded_one_is_not_exported(tiny_storage: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    shutil.copytree(tiny_storage, storage)
    best = chosen_trial(read_trials(storage / NAME), None)
    path = storage / NAME / "trials" / best.trial_id / "student.safetensors"
    weights = load_file(path)
    weights["fc.weight"], weights["fc.bias"] = -weights["fc.weight"], -weights["fc.bias"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"student\.pt2 gives .* % on the held-out images, but the trial recorded"):
        main(["--name", NAME, "--storage", str(storage), "--output", str(tmp_path / "best")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["storage"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--name", "other"], "no search called other in .*; searches there are tiny"),
        (["--name", "../tiny"], "--name must be letters, digits"),
        (["--trial", "00009"], "no trial '00009'; complete trials are 00000, 00001, ref-student-alone"),
        (["--trial", "00002"], "trial 00002 is pruned after epoch 1: only complete ones are exported"),
        (["--trial", "00003"], "trial 00003 is failed"),
        (["--trail", "00003"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_exported_is_told(tiny_storage: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    common = ["--name", NAME, "--storage", str(tiny_storage), "--output", str(tmp_path / "best")]
    with pytest.raises(ValueError, match=told):
        main([*common, *arguments])
    assert not (tmp_path / "best").exists()


def test_a_trial_whose_student_was_not_kept_is_told(tiny_storage: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    shutil.copytree(tiny_storage, storage)
    (storage / NAME / "trials" / "00001" / "student.safetensors").unlink()
    command = ["--name", NAME, "--storage", str(storage), "--output", str(tmp_path / "best"), "--trial", "00001"]
    with pytest.raises(ValueError, match=r"the student of trial 00001 is not there: .* 00000, ref-student-alone"):
        main(command)


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rrd_search.export", "--storage", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"error: no search called quickstart in {tmp_path / 'none'}\n"
    assert not (tmp_path / "none").exists()

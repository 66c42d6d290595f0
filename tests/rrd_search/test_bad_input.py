"""Bad input to the tune command: one plain line that names it, exit code 2, before Ray is joined or a trial starts."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from filelock import FileLock
from real_formats import write_cifar100

from rrd_search.command import exit_code
from rrd_search.flags import parser
from rrd_search.optuna_searcher import Study
from rrd_search.search_file import SearchFile
from rrd_search.space import load_space
from rrd_search.tune import main
from trainables.models import MODELS


@dataclass(frozen=True)
class Bench:
    """Files that the cases name, in ``folder``; the storage is a folder of its own for each test."""

    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    state = MODELS["resnet20"](num_classes=100).state_dict()
    torch.save({"model": state}, folder / "hundred.pth")
    torch.save({"model": MODELS["resnet8"](num_classes=10).state_dict()}, folder / "resnet8.pth")
    (folder / "short.pth").write_bytes((folder / "hundred.pth").read_bytes()[:5000])
    (folder / "code.pth").write_bytes(pickle.dumps({"model": print}))
    write_cifar100(folder / "whole")
    write_cifar100(folder / "cut")
    train = folder / "cut" / "cifar-100-python" / "train"
    train.write_bytes(train.read_bytes()[: train.stat().st_size // 2])
    head = "from trainables.config import TrialConfig\nBASE = TrialConfig()\n"
    spaces = {
        "raises": head + "def space(trial, base):\n    return base.colour\n",
        "none": head + "def space(trial, base):\n    trial.suggest_float('ce_weight', 0.1, 1)\n",
        "syntax": head + "def space(trial, base)\n    return base\n",
        "baseless": "def space(trial, base):\n    return base\n",
        "import": "import there_is_no_such_module\n",
        "empty": head + "def space(trial, base):\n    return base\n",
    }
    one = (
        "from dataclasses import replace\n"
        + head
        + "def space(trial, base):\n    return replace(base, ce_weight=trial.suggest_float('ce_weight', 0.1, 1))\n"
    )
    spaces |= {
        "start": one + "START = {'strong KD': {'ce_weight': 0.5, 'kd_weight': 1.0}}\n",
        "outside": one + "START = {'much': {'ce_weight': 3.0}}\n",
        "reference": one + "REFERENCES = {'KD': {'kd_wieght': 1.0}}\n",
    }
    for name, text in spaces.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "a_file").write_text("")
    return Bench(folder)


CASES: dict[str, tuple[list[str], str]] = {
    "unknown space": (["tempratures"], "no search space 'tempratures'; there are .*quickstart"),
    "space file missing": (["{nothing.py}"], "no search space"),
    "space raises": (["{raises.py}"], r"AttributeError: .*colour.*raises\.py:4"),
    "space returns nothing": (["{none.py}"], "must return a TrialConfig, returned NoneType"),
    "space with a syntax error": (["{syntax.py}"], r"SyntaxError: .*syntax\.py:3"),
    "space without a base": (["{baseless.py}"], "BASE must be a TrialConfig"),
    "space that cannot be imported": (["{import.py}"], "there_is_no_such_module"),
    "space that searches nothing": (["{empty.py}"], "nothing left to search"),
    "START point of what is not searched": (
        ["{start.py}"],
        "START point 'strong KD' sets 'kd_weight', which is not searched; searched: ce_weight"),
    "START point outside of the space": (["{outside.py}"], "START point 'much': ce_weight must be .*, got 3.0"),
    "reference with an unknown field": (["{reference.py}"], "'KD'.*no field 'kd_wieght'"),
    "address of the dashboard": (["--address", "http://127.0.0.1:8265"], "is for `ray job`: give HOST:PORT"),
    "unknown teacher": (["--teacher", "resnet9"], "teacher.architecture must be one of resnet8"),
    "unknown student": (["--student", "vit"], "student must be one of resnet8"),
    "unknown dataset": (["--data", "mnist"], "data.name must be one of digits"),
    "unknown field": (["--set", "loss.temprature=1"], "no field 'loss.temprature'"),
    "unknown part": (["--set", "lozz.weight=1"], "no field 'lozz.weight'"),
    "no value": (["--set", "epochs"], "--set takes FIELD=VALUE"),
    "value that is no YAML": (["--set", "epochs=[1"], "is no value"),
    "wrong type": (["--set", "epochs=many"], "epochs must be a whole number, got 'many'"),
    "negative temperature": (["--set", "loss.student_temperature=-0.1"], "loss.student_temperature must be a"),
    "temperature 0": (["--set", "loss.teacher_temperature=0"], "loss.teacher_temperature must be"),
    "temperature nan": (["--set", "loss.teacher_temperature=.nan"], "loss.teacher_temperature must be"),
    "queue of 0": (["--set", "loss.queue_size=0"], "loss.queue_size must be a whole number of 1 or more"),
    "unknown order": (["--set", "loss.enqueue=never"], "loss.enqueue must be one of after, before"),
    "projection that does not fit": (
        ["--set", "loss.teacher_projection=identity", "--set", "loss.projection_dim=65"],
        "loss.projection_dim must be 64"),
    "image too small": (["--data", "cifar10", "--set", "data.image_size=8"], "data.image_size must be"),
    "nothing held out": (["--set", "data.held_out=0"], "data.held_out must be above 0"),
    "batch that workers do not divide": (["--workers-per-trial", "3"], "--workers-per-trial must be a divisor"),
    "batch larger than the data": (["--set", "batch_size=4096"], "batch_size must be at most"),
    "epochs 0": (["--epochs", "0"], "--epochs: must be a whole number of 1 or more"),
    "trials 0": (["--trials", "0"], "--trials: must be a whole number of 1 or more"),
    "trials in words": (["--trials", "ten"], "--trials: must be a whole number of 1 or more, got 'ten'"),
    "negative hours": (["--hours", "-1"], "--hours: must be a number above 0"),
    "warm start from itself": (["--warm-start", "quickstart"], "--warm-start must be another search, .*got 'quickst"),
    "warm start from nothing": (["--warm-start", "older"], "no search called older in .*storage"),
    "warm start from no folder": (["--warm-start", "{nowhere}/older"], "no search called older in .*nowhere"),
    "warm start from no experiment": (["--warm-start", "mlflow:older"], "mlflow:older: no such experiment in MLflow"),
    "unknown sampler": (["--sampler", "grid"], "--sampler: invalid choice: 'grid'.*tpe"),
    "unknown scheduler": (["--scheduler", "pbt"], "--scheduler: invalid choice: 'pbt'.*asha"),
    "unknown flag": (["--gpu", "1"], "unrecognized arguments: --gpu"),
    "too many GPUs": (["--gpus-per-worker", "8"], "a trial takes 8 GPUs, this machine has at most"),
    "too many CPUs": (["--cpus-per-worker", "4096"], "takes 4096 CPUs, this machine has at most"),
    "cluster that does not answer": (["--address", "127.0.0.1:1"], "no Ray cluster answers there"),
    "name of a folder in the storage": (["--name", "teachers"], "--name must not be one of data, teachers"),
    "no GPU to pack": (["--gpus-per-worker", "auto"], "--gpus-per-worker auto: this machine has no GPU; on CPUs each"),
    "no share of a GPU": (["--gpus-per-worker", "much"], "--gpus-per-worker: must be a number of 0 or more"),
    "half a GPU for each of two": (["--workers-per-trial", "2", "--gpus-per-worker", "0.5"], "--gpus-per-worker must"),
    "name with a slash": (["--name", "a/b"], "--name must be letters"),
    "file store": (["--mlflow-uri", "file:///tmp/runs"], "file"),
    "unknown store": (["--mlflow-uri", "gopher://there"], "gopher"),
    "checkpoint missing": (["--teacher-checkpoint", "{nothing.pth}"], "no such file"),
    "teacher with other classes": (
        ["--teacher-checkpoint", "{hundred.pth}"],
        "expected a resnet20 with 10 classes, found a resnet20 with 100 classes"),
    "teacher of another architecture": (
        ["--teacher-checkpoint", "{resnet8.pth}"],
        "expected a resnet20 with 10 classes, found a resnet8 with 10 classes"),
    "truncated checkpoint": (["--teacher-checkpoint", "{short.pth}"], "truncated or damaged"),
    "checkpoint with code": (["--teacher-checkpoint", "{code.pth}"], "run code"),
    "folder dataset missing": (["--data", "folder:{nowhere}"], "there is no folder"),
    "folder without classes": (["--data", "folder:{whole}"], "class"),
    "corrupt data file": (["--data", "cifar100", "--data-root", "{cut}"], "cifar-100-python/train"),
    "dataset that is not there": (["--data", "tiny_imagenet", "--data-root", "{nowhere}"], "tiny-imagenet-200"),
}  # fmt: skip


@pytest.fixture
def fails(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], str]:
    """Run the command in this process; its one line on stderr."""

    def no_ray(**options: object) -> None:
        raise AssertionError("Ray was joined")

    def run(arguments: list[str]) -> str:
        given = [part.replace("{", str(bench.folder) + "/").replace("}", "") for part in arguments]
        storage = [] if "--storage" in given else ["--storage", str(tmp_path / "storage")]
        monkeypatch.setattr(sys, "argv", ["tune", *given, *storage])
        capsys.readouterr()
        code = exit_code(main)
        said = capsys.readouterr().err
        assert code == 2, said
        assert said.startswith("error: ")
        assert said.endswith("\n")
        assert said.count("\n") == 1, said
        return said

    monkeypatch.setattr(ray, "init", no_ray)
    return run


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong(case: str, fails: Callable[[list[str]], str]) -> None:
    arguments, message = CASES[case]
    said = fails(arguments)
    assert re.search(message, said), said


def test_storage_that_cannot_be_written(fails: Callable[[list[str]], str], bench: Bench) -> None:
    assert "cannot be written: Not a directory" in fails(["--storage", bench.file("a_file/below")])


def begun(storage: Path) -> None:
    """A search called ``quickstart``, begun with seed 0 and the tpe sampler."""
    folder = storage / "quickstart"
    facts = {"space": "quickstart", "trials": 16, "sampler": "tpe", "scheduler": "asha", "seed": 0, "data_root": "data"}
    SearchFile(**facts, teacher={}).write(folder)  # type: ignore[arg-type]
    space = load_space("quickstart").with_values({"seed": 0, "data.schedule_seed": 0})
    Study(f"sqlite:///{folder / 'study.db'}", "quickstart", space).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1"], "--seed must be 0, as the search was begun with"),
        (["--sampler", "random"], "--sampler must be tpe, as the search was begun with"),
        (["--independent-schedules"], "--independent-schedules must not be given, as the search was begun without it"),
        (["--epochs", "9"], "the space of quickstart has changed, its base is another; --accept-changes keeps"),
        (["rrd", "--name", "quickstart"], "the space of quickstart has changed, its base is another; --accept"),
        (["--warm-start", "other"], "--warm-start must be not given, as the search was begun without"),
    ],
)
def test_a_begun_search_is_not_another(
    arguments: list[str], message: str, tmp_path: Path, fails: Callable[[list[str]], str]
) -> None:
    begun(tmp_path / "storage")
    assert message in fails(arguments)


def test_a_damaged_search_file(tmp_path: Path, fails: Callable[[list[str]], str]) -> None:
    begun(tmp_path / "storage")
    (tmp_path / "storage" / "quickstart" / "search.yaml").write_text("trials: [")
    assert "search.yaml is damaged" in fails([])


def test_a_second_driver_is_refused(tmp_path: Path, fails: Callable[[list[str]], str]) -> None:
    folder = tmp_path / "storage" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "driver.pid").write_text("4711 on here")
    with FileLock(folder / "driver.lock"):
        assert "is being run by process 4711 on here" in fails([])


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rrd_search.tune", "--storage", str(tmp_path), "--set", "loss.queue_size=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: loss.queue_size must be a whole number of 1 or more, got 0\n"


def test_help_tells_each_default_once() -> None:
    text = " ".join(parser().format_help().split())
    assert "default: None" not in text
    assert "default: []" not in text
    assert "who proposes configs (default: tpe)" in text
    assert "default: sqlite in the storage folder --" in text, "and not what the environment has, with its password"

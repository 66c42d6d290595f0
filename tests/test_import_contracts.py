"""The import order: it holds in the tree, and a stub that violates a contract is rejected in that contract's name."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rrd_search", "search_spaces", "trainables")
VIOLATIONS = {
    "A search uses spaces and trials, never the other way round": ("trainables/loop.py", "rrd_search.progress"),
    "Spaces know configs only": ("search_spaces/quickstart.py", "trainables.loop"),
    "Inside a trial imports go downwards": ("trainables/losses/kd.py", "trainables.models"),
    "Inside the search imports go downwards": ("rrd_search/record.py", "rrd_search.search"),
    "Inside the cluster files imports go downwards": (
        "rrd_search/cluster_files/aws.py",
        "rrd_search.cluster_files.slurm",
    ),
    "The training core runs without Ray, MLflow and Optuna": ("trainables/data/views.py", "ray"),
    "The flags of a search take no time to import": ("rrd_search/search_file.py", "torch"),
    "Ray stays where trials are run": ("rrd_search/results.py", "ray"),
    "MLflow stays in the recorder": ("rrd_search/search.py", "mlflow"),
    "Optuna stays in the study": ("rrd_search/progress.py", "optuna"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_order_holds() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_every_contract_has_a_violation() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [contract["name"] for contract in contracts] == list(VIOLATIONS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_violation_is_rejected(contract: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file, module = VIOLATIONS[contract]
    with (tmp_path / file).open("a") as source:
        source.write(f"\nimport {module}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"{contract} BROKEN" in done.stdout

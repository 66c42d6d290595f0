"""How a finally trained student does on the test images: measured once, kept beside the student, shown."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rrd_search.progress import percent
from trainables.config import TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_test
from trainables.loop import evaluate, on_device
from trainables.places import Places
from trainables.weights import load_network
from trainables.whole_file import write_whole

FILE = "test.json"


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Of the student of one seed after its last epoch; accuracies are fractions."""

    seed: int
    accuracy: float
    accuracy_top5: float
    loss: float
    images: int
    images_sha256: str

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of the record."""
        return {
            "test_accuracy": self.accuracy,
            "test_accuracy_top5": self.accuracy_top5,
            "test_loss": self.loss,
        }


def measure(folder: Path, config: TrialConfig, places: Places, device: torch.device) -> TestResult:
    """Open the test set for the trained student in ``folder``, and leave what came out there."""
    part = load_test(config.data, places.storage, places.data_root)
    student = load_network(folder / "student.safetensors", config.student, len(part.classes))
    batches = Batches(part, config.data, device=device).unaugmented(np.arange(len(part)))
    found = evaluate(on_device(student, device), batches, config.precision)
    result = TestResult(
        seed=config.seed,
        accuracy=found["val_accuracy"],
        accuracy_top5=found["val_accuracy_top5"],
        loss=found["val_loss"],
        images=len(part),
        images_sha256=part.sha256,
    )
    write_whole(folder / FILE, json.dumps(asdict(result), indent=2).encode())
    return result


def read_result(folder: Path) -> TestResult | None:
    path = folder / FILE
    return TestResult(**json.loads(path.read_text())) if path.is_file() else None


def mean_and_spread(results: Sequence[TestResult]) -> tuple[float, float]:
    """Of the accuracies: mean and sample standard deviation, nan for a single one."""
    accuracies = [result.accuracy for result in results]
    return statistics.fmean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")


def show_results(console: Console, config: TrialConfig, results: Sequence[TestResult]) -> None:
    mean, spread = mean_and_spread(results)
    told = f"{config.student} on the {results[0].images} test images of {config.data.name}"
    console.print(told, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for column in ("seed", "accuracy", "top-5", "loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(str(result.seed), percent(result.accuracy), percent(result.accuracy_top5), f"{result.loss:.4f}")
    table.add_section()
    table.add_row("mean", percent(mean), style="green")
    if len(results) > 1:
        table.add_row("spread", percent(spread), style="green")
    console.print(table)

"""A trial that trains nothing: it waits and reports like one, in a process that imports what a real one does."""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from trainables import trial  # takes most of the time in which a trial's process starts

EPOCHS, EPOCH_SECONDS = 5, 0.04
REAL = trial.Trial


class SimulatedTrial(tune.Trainable):
    """Says when its first epoch begins."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan, self.epoch = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        if self.epoch == 0:
            note(Path(self.plan["folder"]), "trial", self.plan["trial_id"])
        time.sleep(EPOCH_SECONDS)
        self.epoch += 1
        metrics = {"epoch": self.epoch, "val_accuracy": self.plan["value"] * self.epoch / EPOCHS}
        metrics |= dict.fromkeys((*self.plan["shown"], "images_per_second"), 0.5)
        summary = {"epochs_run": float(self.epoch), "final_val_accuracy": metrics["val_accuracy"]}
        return {**metrics, "summary": summary, "curve": [metrics], "done": self.epoch == EPOCHS}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        pass


def note(folder: Path, what: str, trial_id: str = "") -> None:
    with (folder / "times.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "what": what, "trial": trial_id}) + "\n")

"""A trial that trains nothing: it waits, and reports as one does. Without PyTorch, so that many fit on a machine."""

import os
import time
from typing import Any

from ray import tune

SHOWN = ("val_accuracy_top5", "val_loss", "train_loss", "train_ce", "train_kd", "train_rrd_kl", "teacher_entropy")


def epoch_metrics(plan: dict[str, Any], epoch: int) -> dict[str, float]:
    """Of an epoch of a trial; ``plan`` has its last ``value`` and its ``epochs``."""
    return {"epoch": epoch, "val_accuracy": plan["value"] * epoch / plan["epochs"]} | dict.fromkeys(SHOWN, 0.5)


class Simulated(tune.Trainable):
    """Reports each of its epochs, which take ``epoch_seconds``, by itself."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.plan, self.epoch, self.started = new_config, 0, 0.0
        return True

    def step(self) -> dict[str, Any]:
        self.started = self.started or time.time()
        self.epoch += 1
        due = self.started + self.epoch * self.plan["epoch_seconds"]
        time.sleep(max(0.0, due - time.time()))
        metrics = epoch_metrics(self.plan, self.epoch)
        done = self.epoch == self.plan["epochs"]
        summary = {"epochs_run": float(self.epoch), "final_val_accuracy": metrics["val_accuracy"]}
        report = {**metrics, "summary": summary, "curve": [metrics], "done": done}
        return report | {"pid": os.getpid(), "started": self.started}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        pass

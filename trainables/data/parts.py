"""What a search may see and what it may not: the training part with its split, and, apart from it, the test part."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.config import DataConfig
from trainables.data.decoded import open_part
from trainables.data.image_file import Images
from trainables.data.splits import split


@dataclass(frozen=True, eq=False)
class Training:
    """The training part and its split; ids are positions in ``part``, ascending."""

    part: Images
    train_ids: np.ndarray  # int64
    held_out_ids: np.ndarray  # int64


def load_training(config: DataConfig, storage: Path, root: Path) -> Training:
    """All that a search sees: nothing of the test part is read. ``ValueError`` when the dataset cannot be read."""
    part = open_part(config, "train", storage, root)
    return Training(part, *split(part.labels, config.held_out, config.split_seed))


def load_test(config: DataConfig, storage: Path, root: Path) -> Images:
    """The test part: for final training alone. ``ValueError`` when the dataset cannot be read."""
    return open_part(config, "test", storage, root)

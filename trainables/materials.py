"""Images and teacher on a device, which trials that follow one another in a process share."""

import torch

from trainables.config import DataConfig, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_training
from trainables.places import Places
from trainables.teacher import LiveTeacher, stored_teacher
from trainables.teacher_table import TeacherTable
from trainables.weights import load_network


class Materials:
    """For trials with this config's data, teacher, precision and loss."""

    def __init__(self, config: TrialConfig, places: Places, device: torch.device) -> None:
        self.key = self._key(config)
        self.device = device
        images = load_training(config.data, places.storage, places.data_root)
        self.num_classes = len(images.part.classes)
        self.images = images
        self.batches = Batches(images.part, config.data, images.train_ids, device)
        self.teacher: LiveTeacher | None = None
        self.table: TeacherTable | None = None
        if config.teacher.weights is not None:
            path = stored_teacher(config, places)
            network = load_network(path, config.teacher.architecture, self.num_classes)
            self.teacher = LiveTeacher(network, config.precision, device)
            if TeacherTable.serves(config):
                self.table = TeacherTable(config, self.teacher, self.batches, places)

    @property
    def shown(self) -> int:
        """How many images this process has shown to the teacher."""
        return self.teacher.images if self.teacher else 0

    def fits(self, config: TrialConfig, device: torch.device) -> bool:
        return self.key == self._key(config) and self.device == device

    @staticmethod
    def _key(config: TrialConfig) -> tuple[DataConfig, TeacherConfig, str, str]:
        return config.data, config.teacher, config.precision, config.loss.name

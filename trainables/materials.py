"""Images and teacher on a device, which trials that follow one another in a process share."""

import torch

from trainables.config import DataConfig, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.parts import load_training
from trainables.models.network import Network
from trainables.places import Places
from trainables.teacher import LiveTeacher, stored_teacher
from trainables.teacher_table import TeacherTable
from trainables.weights import load_network


class Materials:
    """For trials with this config's data, teacher, precision and loss. OSError where images or teacher, which the
    search has read, cannot be read here and now."""

    def __init__(self, config: TrialConfig, places: Places, device: torch.device) -> None:
        self.key = self._key(config)
        self.device = device
        try:
            self.images = load_training(config.data, places.storage, places.data_root)
            self.num_classes = len(self.images.part.classes)
            network = self._teacher(config, places)
        except ValueError as error:
            raise OSError(str(error)) from error
        self.batches = Batches(self.images.part, config.data, self.images.train_ids, device)
        self.teacher: LiveTeacher | None = None
        self.table: TeacherTable | None = None
        if network is not None:
            self.teacher = LiveTeacher(network, config.precision, device)
            if TeacherTable.serves(config):
                self.table = TeacherTable(config, self.teacher, self.batches, places)

    def _teacher(self, config: TrialConfig, places: Places) -> Network | None:
        if config.teacher.weights is None:
            return None
        return load_network(stored_teacher(config, places), config.teacher.architecture, self.num_classes)

    @property
    def shown(self) -> int:
        """How many images this process has shown to the teacher."""
        return self.teacher.images if self.teacher else 0

    def fits(self, config: TrialConfig, device: torch.device) -> bool:
        return self.key == self._key(config) and self.device == device

    @staticmethod
    def _key(config: TrialConfig) -> tuple[DataConfig, TeacherConfig, str, str]:
        return config.data, config.teacher, config.precision, config.loss.name

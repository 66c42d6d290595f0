"""Batches: the images of one part on the device, as the schedule wants them in an epoch, or as they are."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from trainables.data.config import DataConfig
from trainables.data.crops import GatherCrops, SliceCrops
from trainables.data.image_file import Images
from trainables.data.views import Schedule
from trainables.outputs import Batch

# Of a batch. More than 64 images of 32 pixels a side leave a CPU's caches and take up to twice as long.
CPU_PIXELS = 2**16
DEVICE_PIXELS = 2**20  # 1024 such images, which keep a GPU busy
SMALLEST_BATCH = 16


class Batches:
    """Serves the images ``ids`` of ``part`` (all of them where None) on ``device``.

    On the CPU they stay in the mapped file, which all processes share; another device holds them, padded, as uint8.
    Whatever is given or yielded as an id or index is a position in ``part``. ``watch`` is called before each batch;
    what it raises ends the epoch there.
    """

    def __init__(
        self, part: Images, config: DataConfig, ids: np.ndarray | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.part = part
        self.ids = np.arange(len(part)) if ids is None else ids
        self.device = torch.device(device)
        self.schedule = Schedule(config)
        on_cpu = self.device.type == "cpu"
        self._crops = (
            SliceCrops(part.images, self.schedule) if on_cpu else GatherCrops(part.images, self.schedule, self.device)
        )
        self._labels = torch.tensor(part.labels, device=self.device)
        self._normalise = Normalisation(part, self.device)
        self.watch: Callable[[], None] | None = None

    def steps(self, batch_size: int) -> int:
        """Global batches in an epoch: a last one that would be smaller is dropped."""
        return len(self.ids) // batch_size

    def epoch(self, epoch: int, batch_size: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[Batch]:
        """This rank's share of each global batch of ``batch_size`` images: the rank-th of ``world`` contiguous slices.
        ``first`` batches are left out.

        Every image comes once, in the order and view of that epoch (counted from 1), but for those of a last batch that
        would be smaller. ``ValueError`` unless ``world`` divides ``batch_size`` and there are images for one batch.
        """
        assert 0 <= rank < world, f"rank {rank} of {world}"
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the number of workers, {world}, got {batch_size}")
        steps = self.steps(batch_size)
        if not steps:
            raise ValueError(f"batch_size must be at most the {len(self.ids)} training images, got {batch_size}")
        local_size = batch_size // world
        in_order = self.schedule.order(epoch, self.ids)[: steps * batch_size]
        mine = in_order.reshape(steps, world, local_size)[first:, rank].reshape(-1)
        return self._serve(mine, self.schedule.views_of(epoch, mine), local_size)

    def in_views_of(self, epoch: int, ids: np.ndarray) -> Iterator[Batch]:
        """``ids`` in the order they are given, each in its view of that epoch, for a forward pass alone."""
        return self._serve(ids, self.schedule.views_of(epoch, ids), self.forward_size)

    def unaugmented(self, ids: np.ndarray) -> Iterator[Batch]:
        """``ids`` in the order they are given, each as it is, for a forward pass alone."""
        return self._serve(ids, np.full(len(ids), self.schedule.unaugmented), self.forward_size)

    @property
    def forward_size(self) -> int:
        """Images in a batch with which nothing is trained; the last batch may be smaller."""
        pixels = CPU_PIXELS if self.device.type == "cpu" else DEVICE_PIXELS
        return max(SMALLEST_BATCH, pixels // self.part.images.shape[-1] ** 2)

    def _serve(self, ids: np.ndarray, views: np.ndarray, batch_size: int) -> Iterator[Batch]:
        all_ids, all_views = torch.tensor(ids, device=self.device), torch.tensor(views, device=self.device)  # one copy
        for indices, view in zip(all_ids.split(batch_size), all_views.split(batch_size), strict=True):
            if self.watch is not None:
                self.watch()
            yield Batch(self._normalise(self._crops(indices, view)), self._labels[indices], indices)


class Normalisation:
    """uint8 pixels to normalised floats, bit for bit as torchvision's to_tensor and normalize."""

    def __init__(self, part: Images, device: torch.device) -> None:
        # A tensor on the device: CUDA divides by a number by multiplying with its inverse, which rounds otherwise.
        self._white = torch.tensor(255.0, device=device).view(1, 1, 1, 1)
        self._mean = torch.tensor(part.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(part.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 to float32."""
        return pixels.float().div_(self._white).sub_(self._mean).div_(self._std)

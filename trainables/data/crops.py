"""The pixels of images in given views, in two forms that give the same: slices of the mapped file on the CPU, and one
gather from the padded images on another device. The border is black before normalisation, as Pillow pads."""

import numpy as np
import torch
from torch import Tensor

from trainables.data.views import Schedule, crop_of

_AT_ONCE = 4096  # images


class SliceCrops:
    """Copies a slice per image, straight from the array: no padded copy is made, and a mapped file stays shared.

    Several times as fast on a CPU as indexing with tensors.
    """

    def __init__(self, images: np.ndarray, schedule: Schedule) -> None:
        self._images = images  # [N, 3, H, W] uint8
        size, padding = images.shape[-1], schedule.padding
        self._slices = [_slices(*crop_of(view, padding), padding, size) for view in range(schedule.views)]

    def __call__(self, ids: Tensor, views: Tensor) -> Tensor:
        """The images ``ids`` [B] in ``views`` [B], as [B, 3, H, W] uint8."""
        crops = np.zeros((len(ids), *self._images.shape[1:]), np.uint8)  # zero: the border
        for crop, image, view in zip(crops, ids.tolist(), views.tolist(), strict=True):
            target, source = self._slices[view]
            crop[target] = self._images[image][source]
        return torch.from_numpy(crops)


def _slices(flip: bool, top: int, left: int, padding: int, size: int) -> tuple[tuple, tuple]:
    """Where the crop meets the image inside its border: the slices of the crop, and those of the image."""
    rows_in_crop, rows = _overlap(top - padding, size)
    columns_in_crop, columns = _overlap(left - padding, size)
    if flip:  # mirrored in the crop, read backwards from the image
        columns_in_crop = slice(size - columns_in_crop.stop, size - columns_in_crop.start)
        columns = slice(columns.stop - 1, columns.start - 1 if columns.start else None, -1)
    every = slice(None)  # channel
    return (every, rows_in_crop, columns_in_crop), (every, rows, columns)


def _overlap(offset: int, size: int) -> tuple[slice, slice]:
    """The pixels that a crop shifted by ``offset`` shares with the image, counted in the crop and in the image."""
    first, last = max(offset, 0), min(offset + size, size)
    return slice(first - offset, last - offset), slice(first, last)


class GatherCrops:
    """Keeps the padded images on the device as uint8 and takes a batch from them in one gather."""

    def __init__(self, images: np.ndarray, schedule: Schedule, device: torch.device) -> None:
        size, padding = images.shape[-1], schedule.padding
        side = size + 2 * padding
        self._padded = torch.zeros(len(images), 3, side, side, dtype=torch.uint8, device=device)
        inside = self._padded[:, :, padding : padding + size, padding : padding + size]
        for start in range(0, len(images), _AT_ONCE):
            some = np.array(images[start : start + _AT_ONCE])  # a copy: torch warns of arrays that cannot be written
            inside[start : start + _AT_ONCE] = torch.from_numpy(some).to(device)
        crops = [crop_of(view, padding) for view in range(schedule.views)]
        pixels = np.arange(size)
        rows = np.stack([top + pixels for _, top, _ in crops])
        columns = np.stack([left + (pixels[::-1] if flip else pixels) for flip, _, left in crops])
        self._rows, self._columns = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)  # [V, H]
        self._channels = torch.arange(3, device=device)[:, None, None]

    def __call__(self, ids: Tensor, views: Tensor) -> Tensor:
        """The images ``ids`` [B] in ``views`` [B], both on the device, as [B, 3, H, W] uint8."""
        rows, columns = self._rows[views][:, None, :, None], self._columns[views][:, None, None, :]
        return self._padded[ids[:, None, None, None], self._channels, rows, columns]

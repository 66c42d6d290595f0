"""The schedule: in which order the images come in an epoch, and in which of its V views each one is shown.

Both are pure functions of (schedule seed, epoch, original image id): the same for any resume, sharding, batch size or
split. A view is one crop of the padded image, flipped or not. Epochs count from 1.
"""

import numpy as np

from trainables.data.config import DataConfig
from trainables.data.counter_random import Stream, random_bits

_CHUNK = 1024  # images whose permutations are made at once: bounds the memory for their 64-bit keys


class Schedule:
    """Which view, and in which order, for a ``schedule_seed``, ``padding`` and ``flip``. ``views`` is V, and
    ``unaugmented`` the view that is the image itself: the crop at the centre, not flipped."""

    def __init__(self, config: DataConfig) -> None:
        self.seed = config.schedule_seed
        self.padding = config.padding
        self.views = config.views
        self.unaugmented = config.padding * (2 * config.padding + 1) + config.padding
        self._permutations: dict[int, np.ndarray] = {}  # by chunk of ids, made when first asked for

    def order(self, epoch: int, ids: np.ndarray) -> np.ndarray:
        """``ids`` in the order of that epoch. The order of some ids is that of all of them, the others left out."""
        return ids[np.argsort(random_bits(self.seed, Stream.ORDER, epoch, ids))]

    def views_of(self, epoch: int, ids: np.ndarray) -> np.ndarray:
        """The view of each of ``ids`` in that epoch, int64: entry (epoch mod V) of the image's permutation of views."""
        views = np.empty(len(ids), np.int64)
        entry = epoch % self.views
        for chunk in np.unique(ids // _CHUNK).tolist():
            here = ids // _CHUNK == chunk
            views[here] = self._permutations_of(chunk)[entry, ids[here] % _CHUNK]
        return views

    def _permutations_of(self, chunk: int) -> np.ndarray:
        """[V, images of the chunk]: each column is one image's permutation, in the smallest type that holds it."""
        if chunk not in self._permutations:
            ids = np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK)[:, None]
            keys = random_bits(self.seed, Stream.VIEWS, ids, np.arange(self.views))  # [images, V], distinct in a row
            smallest = np.min_scalar_type(self.views - 1)
            self._permutations[chunk] = np.ascontiguousarray(np.argsort(keys).T.astype(smallest))
        return self._permutations[chunk]


def crop_of(view: int, padding: int) -> tuple[bool, int, int]:
    """What a view number means: flip (after cropping), and the crop's top and left in the padded image, 0 to twice
    the padding."""
    offsets = 2 * padding + 1
    flip, offset = divmod(view, offsets * offsets)
    return bool(flip), offset // offsets, offset % offsets

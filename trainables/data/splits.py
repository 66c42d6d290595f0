"""The split of a part's images in two, stratified by class: a pure function of the labels and a seed."""

import numpy as np

from trainables.data.counter_random import Stream, random_bits


def split(labels: np.ndarray, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids (positions in ``labels``) of the kept and of the held-out images, each ascending, int64.

    The fraction ``held_out`` of all images is held out, of each class its share, to within one image; of a class with
    two images or more at least one is held out and at least one kept. Nothing is held out where the fraction is 0.
    """
    assert 0 <= held_out < 1, f"held_out is a fraction, got {held_out}"
    ids = np.arange(len(labels))
    if held_out == 0:
        return ids, ids[:0]
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.lexsort((random_bits(seed, Stream.SPLIT, ids), class_of))  # class by class, each shuffled
    rank_in_class = np.empty_like(ids)
    rank_in_class[by_class] = ids - np.repeat(np.cumsum(counts) - counts, counts)
    is_held_out = rank_in_class < _quotas(counts, held_out)[class_of]
    return ids[~is_held_out], ids[is_held_out]


def _quotas(counts: np.ndarray, held_out: float) -> np.ndarray:
    """How many of each class to hold out: shares rounded down, what is missing in the sum to the largest remainders."""
    shares = counts * held_out
    quotas = shares.astype(np.int64)
    missing = int(counts.sum() * held_out + 0.5) - int(quotas.sum())
    largest_remainders = np.argsort(quotas - shares, kind="stable")[: max(missing, 0)]
    quotas[largest_remainders] += 1
    return np.minimum(np.maximum(quotas, 1), counts - 1)

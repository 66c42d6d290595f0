"""Random bits as pure functions of counters (seed, epoch, image id, ...): nothing has a state, so any part of a
sequence can be had in any order, by any process, and comes out the same on every machine and numpy version."""

from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Stream(IntEnum):
    """What the bits are for: the second counter everywhere, so that equal seeds do not mean related choices."""

    SPLIT = 1
    ORDER = 2
    VIEWS = 3


def splitmix64(state: np.ndarray) -> np.ndarray:
    """The output of SplitMix64 for a state: a bijection of uint64 (Steele, Lea and Flood 2014, figure 17)."""
    bits = state + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def random_bits(*counters: int | np.ndarray) -> np.ndarray:
    """uint64 bits for each combination of the counters, which broadcast. Counters are 0 or more.

    Distinct values of the last counter give distinct bits when the others are equal, so sorting by them has no ties.
    """
    bits = np.zeros(1, np.uint64)
    for counter in counters:
        if isinstance(counter, int):
            counter = np.array([counter % 2**64], np.uint64)  # one dimension: numpy warns of overflow for scalars
        bits = splitmix64(bits ^ splitmix64(counter.astype(np.uint64)))
    return bits

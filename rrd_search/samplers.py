"""The samplers a search can use, by name: ``SAMPLERS[name](seed, number)`` makes the one for trial ``number``.

A sampler is made anew for every trial, so that a proposal depends on the seed, the trial's number and what was told
so far, and a resumed search goes on as if it had not been interrupted. What a sampler must remember is in the storage.
"""

import hashlib
from collections.abc import Callable

from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from rrd_search.history import Bounded
from rrd_search.quiet import quiet_optuna

# Ended trials that a sampler sees at most: with fewer, proposals get worse (of 800 trials, the best that TPE found was
# half a point of accuracy better with all than with 300 of them); with more, they take ever longer.
TPE_SEES = 1000  # 0.1 seconds
GP_SEES = 300  # about a second


def draw(seed: int, trial: int | str) -> int:
    """A seed of 32 bits for one trial of a search: by its number for the sampler, by its id for its schedule."""
    return int.from_bytes(hashlib.sha256(f"{seed} {trial}".encode()).digest()[:4])


def _tpe(seed: int, number: int) -> BaseSampler:
    """Jointly over the fields that occur together (temperatures and weights interact), apart for fields under a
    condition. Ten random trials first, START points among them. Running trials count as bad ones, so that parallel
    workers spread out."""
    tpe = TPESampler(seed=draw(seed, number), multivariate=True, group=True, constant_liar=True, n_startup_trials=10)
    return Bounded(tpe, TPE_SEES)


def _gp(seed: int, number: int) -> BaseSampler:
    gp = GPSampler(seed=draw(seed, number), independent_sampler=_random(seed, number), n_startup_trials=10)
    return Bounded(gp, GP_SEES)


def _cmaes(seed: int, number: int) -> BaseSampler:
    """Numbers by CMA-ES, whose state is in the storage; categories at random."""
    return CmaEsSampler(seed=draw(seed, number), independent_sampler=_random(seed, number))


def _qmc(seed: int, number: int) -> BaseSampler:
    """One scrambled sequence for the whole search, so its seed stays; the place in it is in the storage."""
    return QMCSampler(scramble=True, seed=draw(seed, 0), independent_sampler=_random(seed, number))


def _random(seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=draw(seed, number))


def _nsga2(seed: int, number: int) -> BaseSampler:
    """Small generations: a search has tens of trials, and only those that were not stopped early become parents."""
    return NSGAIISampler(seed=draw(seed, number), population_size=8)


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
    "random": _random,
    "nsga2": _nsga2,
}


def make_sampler(name: str, seed: int, number: int) -> BaseSampler:
    """ValueError for an unknown name."""
    if name not in SAMPLERS:
        raise ValueError(f"the sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    with quiet_optuna():
        return SAMPLERS[name](seed, number)

"""Points of a space: what a trial that ran elsewhere would be in it, and one that no trial has yet."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import RandomSampler

from rrd_search.quiet import quiet_optuna
from rrd_search.space import InvalidCombination, Space, SpaceTrial, one_line
from rrd_search.space_check import holds, range_of
from trainables.config import TrialConfig

RANDOM_TRIES = 300  # points drawn at random, before a space counts as exhausted
TOLD = 3  # fields by which a trial differs
SEEDS = ("seed", "data.schedule_seed")  # by which trials of different searches differ that are the same otherwise


@dataclass(frozen=True)
class Point:
    """What is suggested, from which ranges, and the config that comes of it."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    config: TrialConfig


def point_of(
    space: Space, values: Mapping[str, object], config_hash: str, seeded: Callable[[TrialConfig], TrialConfig]
) -> Point:
    """The point whose config has this hash, once ``seeded`` has set its seeds: then it is the same experiment.

    ``values``, by name, are what the trial was suggested and the fields of its config, as far as they are known; as
    text where they were recorded so. InvalidCombination tells in a few words why there is no such point.
    """
    point = _point_with(space, values)
    config = seeded(point.config)
    if config.config_hash != config_hash:
        flat = config.flat()
        others = [name for name in values if name in flat and str(flat[name]) != str(values[name])]
        more = f" and {len(others) - TOLD} more" if len(others) > TOLD else ""
        raise InvalidCombination(f"other {', '.join(others[:TOLD]) or 'fixed values'}{more}")
    return Point(point.params, point.distributions, config)


def seeds_of(config: TrialConfig) -> dict[str, int]:
    """For ``with_values``."""
    flat = config.flat()
    return {name: flat[name] for name in SEEDS}


def draw_unseen(space: Space, seed: int, seen: Container[str]) -> dict[str, Any] | None:
    """Values of a config whose hash was not seen; drawn in memory, and None where many tries find none."""
    with quiet_optuna():
        drawn = optuna.create_study(sampler=RandomSampler(seed=seed))
    for _ in range(RANDOM_TRIES):
        trial = drawn.ask()
        try:
            config = space.config_of(trial)
        except InvalidCombination:
            continue
        if config.config_hash not in seen:
            return trial.params
    return None


def _point_with(space: Space, values: Mapping[str, object]) -> Point:
    outside = []

    def choose(name: str, distribution: BaseDistribution, sampled: Any) -> Any:
        try:
            value = _read(distribution, values[name])
        except (KeyError, ValueError, TypeError):
            value = None
        if value is None or not holds(distribution, value):
            outside.append(f"{name} must be {range_of(distribution)}, got {values.get(name, 'none')}")
            raise InvalidCombination(outside[0])
        return distribution.to_external_repr(distribution.to_internal_repr(value))

    with quiet_optuna():
        trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
        seen = SpaceTrial(trial, space.pinned, choose)
        try:
            config = space.config_of(seen)
        except InvalidCombination as error:
            raise InvalidCombination(outside[0] if outside else one_line(error)) from error
    return Point(dict(seen.values), {name: trial.distributions[name] for name in seen.values}, config)


def _read(distribution: BaseDistribution, value: object) -> Any:
    """The value of this kind; text as ``str`` wrote it."""
    if isinstance(distribution, CategoricalDistribution):
        return next((one for one in distribution.choices if one == value or str(one) == value), None)
    return (int if isinstance(distribution, IntDistribution) else float)(str(value))

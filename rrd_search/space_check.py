"""Tries a space out in memory, before any worker starts: what it searches, whether its points fit, what is wrong."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.samplers import RandomSampler

from rrd_search.quiet import quiet_optuna
from rrd_search.space import InvalidCombination, Points, Space, SpaceFacts, SpaceTrial, one_line
from trainables.config import TrialConfig

SAMPLES = 32


def check(space: Space) -> SpaceFacts:
    """Try the space out in memory. ValueError, one line, for a function that fails or is never valid, and for START
    points and references that it does not hold. A part of the samples may be invalid: a search asks again for those."""
    searched, pinned = _sample(space)
    if not searched:
        why = f"; pinned: {', '.join(pinned)}" if pinned else ""
        raise ValueError(f"space {space.name} has nothing left to search{why}")
    start, left_out = _start(space, list(searched))
    references, others = _references(space)
    description = {
        "base": space.base.flat(),
        "searched": {name: sorted(searched[name]) for name in sorted(searched)},
    }
    return SpaceFacts(
        searched=tuple(searched),
        pinned=pinned,
        start=start,
        references=references,
        left_out=left_out | others,
        description=description,
    )


def _sample(space: Space) -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """The distributions of each field over random samples, as JSON, and the pinned fields that were asked for."""
    with quiet_optuna():
        study = optuna.create_study(sampler=RandomSampler(seed=0))
    searched: dict[str, set[str]] = {}
    pinned: dict[str, None] = {}
    invalid = []
    for _ in range(SAMPLES):
        trial = study.ask()
        seen = SpaceTrial(trial, space.pinned)
        try:
            space.config_of(seen)
        except InvalidCombination as error:
            invalid.append(error)
        for name, distribution in trial.distributions.items():
            searched.setdefault(name, set()).add(distribution_to_json(distribution))
        pinned |= dict.fromkeys(seen.held)
    if len(invalid) == SAMPLES:
        raise ValueError(f"space {space.name}: none of {SAMPLES} samples is valid; the first: {one_line(invalid[0])}")
    return searched, tuple(pinned)


def _start(space: Space, searched: list[str]) -> tuple[Points, dict[str, str]]:
    """The START points, complete, and those that do not go with the pinned values."""
    points: Points = {}
    left_out: dict[str, str] = {}
    for name, values in space.start.items():
        unknown = [one for one in values if one not in searched and not _was_searched(space, one)]
        if unknown:
            rule = f"which is not searched; searched: {', '.join(searched)}"
            raise ValueError(f"space {space.name}: START point {name!r} sets {unknown[0]!r}, {rule}")
        try:
            point = _complete(space, {one: value for one, value in values.items() if one not in space.pinned})
        except InvalidCombination as error:
            if not space.pinned:
                raise ValueError(f"space {space.name}: START point {name!r}: {one_line(error)}") from error
            left_out[name] = one_line(error)
            continue
        same = next((other for other, known in points.items() if known == point), None)
        if same is None:
            points[name] = point
        else:
            left_out[name] = f"the same as {same!r}"
    return points, left_out


def _was_searched(space: Space, name: str) -> bool:
    """Whether a field may be one of those that the space searches under other pinned values than these."""
    return bool(space.pinned) and name in space.base.flat()


def _complete(space: Space, point: dict[str, Any]) -> dict[str, Any]:
    """The point, and for other fields that are searched there the base's value, where that can be suggested.

    What neither gives, the search's sampler will choose. InvalidCombination where the point is outside of the space.
    """
    usual = space.base.flat()
    left_open = []

    def choose(name: str, distribution: BaseDistribution, sampled: Any) -> Any:
        if name in point:
            if not holds(distribution, point[name]):
                raise InvalidCombination(f"{name} must be {range_of(distribution)}, got {point[name]!r}")
            return distribution.to_external_repr(distribution.to_internal_repr(point[name]))
        if name in usual and holds(distribution, usual[name]):
            return usual[name]
        left_open.append(name)
        return sampled

    with quiet_optuna():
        trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    seen = SpaceTrial(trial, space.pinned, choose)
    space.config_of(seen)
    return {name: value for name, value in seen.values.items() if name not in left_open}


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether it can suggest this value."""
    try:
        optuna.create_trial(value=0.0, params={"field": value}, distributions={"field": distribution})
    except (ValueError, TypeError):
        return False
    return True


def range_of(distribution: BaseDistribution) -> str:
    """As people read it."""
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, (optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution))
    return f"from {distribution.low:g} to {distribution.high:g}"


def _references(space: Space) -> tuple[dict[str, TrialConfig], dict[str, str]]:
    configs: dict[str, TrialConfig] = {}
    left_out: dict[str, str] = {}
    for name, values in space.references.items():
        try:
            configs[name] = space.base.with_values(values)
        except ValueError as error:
            if not space.pinned:
                raise ValueError(f"space {space.name}: reference {name!r}: {one_line(error)}") from error
            left_out[name] = one_line(error)
    return configs, left_out

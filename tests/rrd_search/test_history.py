"""What samplers are shown of a long search."""

import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from rrd_search.history import BEST, Bounded, shown
from rrd_search.quiet import quiet_optuna

RANGE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


def ended(state: TrialState, value: float | None, curve: dict[int, float], number: int = 0) -> FrozenTrial:
    draw = random.Random(number)
    params = {"x": draw.random(), "y": draw.random()}
    values = {"value": value} if state == TrialState.COMPLETE else {}
    trial = optuna.create_trial(state=state, params=params, distributions=RANGE, intermediate_values=curve, **values)
    trial.number = number
    return trial


def complete(number: int, value: float) -> FrozenTrial:
    return ended(TrialState.COMPLETE, value, {9: value}, number)


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_a_short_history_is_shown_whole_but_for_failures() -> None:
    trials = [complete(number, number / 10) for number in range(8)]
    trials += [ended(TrialState.FAIL, None, {1: 0.9}, 8), ended(TrialState.RUNNING, None, {1: 0.9}, 9)]
    assert numbers(shown(trials, 30)) == [0, 1, 2, 3, 4, 5, 6, 7, 9]


def test_of_a_long_one_the_best_the_latest_and_all_that_run() -> None:
    trials = [complete(number, 1 - number / 1000 if number < BEST else 0.1) for number in range(200)]
    trials[40] = ended(TrialState.RUNNING, None, {}, 40)
    assert numbers(shown(trials, 60)) == [*range(BEST), 40, *range(200 - (60 - BEST), 200)]


def test_those_that_were_stopped_rank_behind_by_how_far_they_got() -> None:
    """As TPE ranks them."""
    late = [ended(TrialState.PRUNED, None, {1: 0.1, 9: 0.2 + number / 100}, number) for number in range(20)]
    early = [ended(TrialState.PRUNED, None, {1: 0.9}, 20 + number) for number in range(20)]
    silent = [ended(TrialState.PRUNED, None, {}, 40 + number) for number in range(20)]
    nan = [ended(TrialState.PRUNED, None, {9: float("nan")}, 60)]
    whole = [complete(61 + number, -1.0) for number in range(15)]
    told = shown([*late, *early, *silent, *nan, *whole], BEST + 1)
    assert numbers(told) == [*range(10, 20), 60, *range(61, 76)], "number 60 as the latest of the others"


@pytest.mark.parametrize(("trials", "same"), [(50, True), (51, False)])
def test_what_is_proposed_depends_on_what_is_shown_alone(trials: int, same: bool) -> None:
    """Up to its bound a sampler says what it would say without."""
    history = [complete(number, random.Random(number).random()) for number in range(trials)]

    def proposal(sampler: BaseSampler) -> dict[str, float]:
        with quiet_optuna():
            study = optuna.create_study(sampler=sampler, direction="maximize")
            study.add_trials(history)
            trial = study.ask()
            return {name: trial.suggest_float(name, 0, 1) for name in RANGE}

    def tpe() -> BaseSampler:
        with quiet_optuna():
            return TPESampler(seed=1, multivariate=True, group=True, constant_liar=True)

    assert proposal(Bounded(tpe(), 50)) == proposal(Bounded(tpe(), 50))
    assert (proposal(Bounded(tpe(), 50)) == proposal(tpe())) == same

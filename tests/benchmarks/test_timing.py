import math

import pytest

from benchmarks.report import Row
from benchmarks.search import Ended, Search, half_until, reached_by_half
from benchmarks.timing import Timings, interleaved


def test_contestants_take_turns() -> None:
    called: list[str] = []
    contestants = {name: (lambda name=name: called.append(name)) for name in "ab"}
    timings = interleaved(contestants, rounds=3, warm_up=1)
    assert "".join(called) == "abbaabba"
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """The machine was three times as slow in the second round."""
    timings = Timings({"slow": [6.0, 18.0, 5.0], "fast": [2.0, 6.0, 4.0]})
    assert timings.ratio("slow", "fast") == 3.0
    assert timings.median("slow") == 6.0


@pytest.mark.parametrize(
    ("ratio", "at_most", "missed"), [(4.0, False, False), (3.9, False, True), (4.1, True, True), (0.0, True, False)]
)
def test_a_row_says_whether_its_target_is_missed(ratio: float, at_most: bool, missed: bool) -> None:
    row = Row(what="a", case="b", plain="1 s", here="2 s", ratio=ratio, target=4.0, at_most=at_most)
    assert ("missed" in str(row)) is missed


def test_a_search_tells_its_parts() -> None:
    """Two places: one trial after another in the first, one and a half of that time in the second."""
    trials = [Ended(10.0, 20.0, 0.5), Ended(10.0, 25.0, 0.7), Ended(21.0, 31.0, 0.6), Ended(27.0, 37.0, 0.8)]
    search = Search(started=2.0, ended=40.0, concurrent=2, trials=trials)
    assert (search.start_up, search.training, search.between, search.closing) == (8.0, 10.0, 1.5, 3.0)
    assert search.until(0.65) == 23.0
    assert search.until(0.9) == math.inf
    assert search.improvements() == [(18.0, 0.5), (23.0, 0.7), (35.0, 0.8)]


@pytest.mark.parametrize(("bests", "expected"), [([0.7], 0.7), ([0.7, 0.9], 0.9), ([0.9, 0.5, 0.7], 0.7)])
def test_half_of_the_searches_reach_an_accuracy(bests: list[float], expected: float) -> None:
    searches = [Search(0.0, 9.0, 1, [Ended(0.0, 1.0, best), Ended(1.0, 2.0, 0.1)]) for best in bests]
    assert reached_by_half(searches) == expected
    assert half_until(expected, searches) == 1.0, "as half of them do reach it"
    assert half_until(0.95, searches) == math.inf

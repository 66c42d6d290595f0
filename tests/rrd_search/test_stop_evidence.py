"""Rank correlations as SciPy has them, and what the closing tables say of rungs and audited trials."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import spearmanr

from rrd_search.results import show_results
from rrd_search.stop_evidence import rank_correlation, rung_evidence
from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig


def record(number: int, rungs: dict[int, float], value: float | None, **more: Any) -> TrialRecord:
    known: dict[str, Any] = {"trial_id": f"{number:05d}", "state": "complete", "value": value, "epochs": 9}
    known |= {
        "params": {},
        "plain_config": TrialConfig().to_dict(),
        "point": None,
        "reference": False,
        "curve": {9: value},
    }
    known |= {"rungs": rungs, "audited": None, "reason": None}
    return TrialRecord(**(known | more))


@pytest.mark.parametrize("digits", [1, 3], ids=["many ties", "few ties"])
def test_rank_correlation_is_scipys(digits: int) -> None:
    pairs = np.random.default_rng(0).random((50, 2)).round(digits)
    assert rank_correlation([(a, b) for a, b in pairs]) == pytest.approx(spearmanr(*pairs.T)[0], abs=1e-12)


def test_where_there_is_no_order() -> None:
    assert rank_correlation([]) is None
    assert rank_correlation([(1, 1), (2, 2)]) is None
    assert rank_correlation([(1, 1), (2, 1), (3, 1)]) is None
    assert rank_correlation([(1, 1), (2, 2), (float("nan"), 0)]) is None
    assert rank_correlation([(1, 3), (2, 2), (9, 1)]) == pytest.approx(-1)


TRIALS = [
    record(0, {1: 0.5, 3: 0.6}, 0.9),
    record(1, {1: 0.6, 3: 0.7}, 0.95, point="published"),
    record(2, {1: 0.4}, 0.7, audited=1),
    record(3, {1: 0.1}, 0.6, audited=1),
    record(4, {1: 0.2}, 0.2, state="pruned"),
    record(5, {1: 0.9, 3: 0.9}, None, state="failed"),
    record(6, {1: 0.0}, 1.0, reference=True),
]


def test_evidence_is_of_finished_trials() -> None:
    first, second = rung_evidence(TRIALS)
    assert (first.epoch, first.trials, first.rank_correlation) == (1, 4, pytest.approx(1))
    assert (second.epoch, second.trials, second.rank_correlation) == (3, 2, None)
    assert rung_evidence([record(0, {}, 0.5)]) == []


def shown(trials: list[TrialRecord]) -> str:
    best = max((trial for trial in trials if trial.state == "complete"), key=lambda trial: trial.value or 0)
    study: Any = SimpleNamespace(trials=lambda: trials, references=list, earlier=list, best=lambda: best)
    console = Console(file=io.StringIO(), width=120)
    show_results(console, "search", study, {})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_shown() -> None:
    said = shown(TRIALS[:6])
    assert "can the early stops be trusted?" in said
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    assert ["1", "4", "1.00"] in rows
    assert ["3", "2", "-"] in rows
    ran_on = "2 of the trials that would have been stopped ran on"
    assert f"{ran_on}: the best, 00002, ended at 70.00 %, -25.00 to the winner" in said
    missed = [*TRIALS[:2], record(7, {1: 0.1}, 0.99, audited=1)]
    assert "the winner is one of them, stopped after epoch 1 it would have been lost" in shown(missed)
    running = [*TRIALS[:2], record(8, {1: 0.1}, 0.2, audited=1, state="running")]
    assert "none of them has run to its end yet" in shown(running)
    assert "trusted" not in shown([record(0, {}, 0.5)]), "a search without rungs has nothing to say of them"

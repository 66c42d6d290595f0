"""The tables at the end of a search: its best trials, and the winner beside the published points and references."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rrd_search.optuna_searcher import Study
from rrd_search.progress import percent
from rrd_search.stop_evidence import RungEvidence, best_audited, rung_evidence
from rrd_search.trial_records import TrialRecord

BEST = 5  # trials in the first table


def show_results(console: Console, name: str, study: Study, teacher: dict[str, Any]) -> None:
    """Print what came out. Accuracies are those of the last epoch on the held-out images."""
    trials, best = study.trials(), study.best()
    counts = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")}
    told = f"{counts['complete']} complete, {counts['pruned']} stopped early, {counts['failed']} failed"
    console.print(f"\n[bold]{name}[/bold]: {len(trials)} trials, {told}", highlight=False)
    for trial in (trial for trial in trials if trial.state == "failed"):
        console.print(f"  {trial.trial_id} failed: {trial.reason}", markup=False, highlight=False)
    if earlier := study.earlier():
        console.print(_earlier_table(earlier))
    if best is None:
        console.print("no trial ran to its end, so there is no winner")
        return
    console.print(_best_table(trials))
    console.print(_comparison(best, [*trials, *study.references()]))
    if evidence := rung_evidence(trials):
        console.print(_trust(evidence))
    if (audit := _audit_line(best, trials)) is not None:
        console.print(audit, highlight=False, soft_wrap=True)
    console.print(_teacher_line(teacher), highlight=False)


def _best_table(trials: Sequence[TrialRecord]) -> Table:
    """A column for each trial: names of fields are long."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    ranked = sorted(complete, key=lambda trial: (-(trial.value or 0), trial.trial_id))[:BEST]
    table = Table(title="best trials", title_justify="left", title_style="bold")
    table.add_column("trial", no_wrap=True)
    for trial in ranked:
        table.add_column(trial.trial_id, justify="right", no_wrap=True)
    table.add_row("accuracy", *(percent(trial.value) for trial in ranked), style="bold", end_section=True)
    for field in sorted({name for trial in ranked for name in trial.params}, key=_rank):
        table.add_row(field, *(_short(trial.params.get(field)) for trial in ranked))
    return table


def _comparison(best: TrialRecord, trials: Sequence[TrialRecord]) -> Table:
    """The winner first, then every published point and reference, with its distance to the winner in points."""
    table = Table(title="the winner beside what it should beat", title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("accuracy", "to the winner", "best epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    winner = f"winner (trial {best.trial_id}" + (f", {best.point})" if best.point else ")")
    table.add_row(winner, percent(best.value), "", _best_epoch(best), style="green")
    for trial in trials:
        if trial.point and trial.trial_id != best.trial_id:
            ended = trial.state == "complete" and trial.value is not None and best.value is not None
            distance = f"{100 * ((trial.value or 0) - (best.value or 0)):+.2f}" if ended else trial.state
            table.add_row(trial.point, percent(trial.value if ended else None), distance, _best_epoch(trial))
    return table


def _earlier_table(trials: Sequence[TrialRecord]) -> Table:
    """The best of those that are no points of the search's present space."""
    table = Table(title=f"{len(trials)} of an earlier space, not compared", title_justify="left", title_style="bold")
    for column in ("trial", "state", "accuracy", "why"):
        table.add_column(column, overflow="fold")
    for trial in sorted(trials, key=lambda trial: (trial.state != "complete", -(trial.value or 0.0)))[:BEST]:
        name = f"{trial.trial_id} ({trial.point})" if trial.point else trial.trial_id
        table.add_row(name, trial.state, percent(trial.value), trial.earlier)
    return table


def _trust(evidence: Sequence[RungEvidence]) -> Table:
    """What a rung says about the end, from the trials that reached both."""
    table = Table(title="can the early stops be trusted?", title_justify="left", title_style="bold")
    for column in ("compared after epoch", "trials that finished", "rank correlation with the end"):
        table.add_column(column, justify="right", no_wrap=True)
    for rung in evidence:
        agreement = "-" if rung.rank_correlation is None else f"{rung.rank_correlation:.2f}"
        table.add_row(str(rung.epoch), str(rung.trials), agreement)
    return table


def _audit_line(best: TrialRecord, trials: Sequence[TrialRecord]) -> str | None:
    audited = [trial for trial in trials if trial.audited is not None]
    top = best_audited(trials)
    if not audited:
        return None
    said = f"{len(audited)} of the trials that would have been stopped ran on"
    if top is None or top.value is None or best.value is None:
        return f"{said}; none of them has run to its end yet"
    if top.trial_id == best.trial_id:
        return f"{said}: the winner is one of them, stopped after epoch {top.audited} it would have been lost"
    distance = f"{100 * (top.value - best.value):+.2f} to the winner"
    return f"{said}: the best, {top.trial_id}, ended at {percent(top.value)}, {distance}"


def _best_epoch(trial: TrialRecord) -> str:
    return percent(max(trial.curve.values())) if trial.curve else "-"


def _teacher_line(teacher: dict[str, Any]) -> str:
    if not teacher:
        return "no teacher was used"
    seen = "it has not seen them" if teacher["trained_here"] else "it may have seen them when it was trained"
    return f"teacher: {percent(teacher['val_accuracy'])} on the held-out images; {seen}"


def _rank(field: str) -> tuple[bool, str]:
    return not field.startswith("loss."), field


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

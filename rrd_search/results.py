"""The tables at the end of a search: its best trials, and the winner beside the published points and references."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rrd_search.optuna_searcher import Study
from rrd_search.progress import percent
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
    if best is None:
        console.print("no trial ran to its end, so there is no winner")
        return
    console.print(_best_table(trials))
    console.print(_comparison(best, [*trials, *study.references()]))
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

"""The closing table of the fault suite: what was injected how often, and what it cost.

python tests/faults/tally.py FILE ...: one table of the runs of pytest that left these files.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ledger import Findings

COLUMNS = (
    "times injected",
    "finished",
    "trials lost",
    "trials repeated",
    "runs duplicated",
    "metrics missing",
)


@dataclass
class Row:
    """A fault. ``finished`` of ``searches`` went to their end; the rest are counts of what must never happen."""

    injected: int = 0
    searches: int = 0
    finished: int = 0
    lost: int = 0
    repeated: int = 0
    duplicated: int = 0
    missing: int = 0


@dataclass
class Tally:
    """Collects rows over all tests of a session; ``notes`` are lines to print below the table."""

    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, fault: str, injected: int, found: Findings | None = None, finished: bool = True) -> None:
        """A search, or a trial by itself, to which a fault happened so often; ``found`` is what is wrong with it."""
        row, found = self.rows.setdefault(fault, Row()), found or Findings()
        row.injected += injected
        row.searches += 1
        row.finished += finished
        row.lost += len(found.lost)
        row.repeated += len(found.repeated)
        row.duplicated += len(found.duplicated)
        row.missing += len(found.missing)

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self)))

    def take(self, file: Path) -> None:
        """Add what another run has written."""
        other = json.loads(file.read_text())
        for name, counts in other["rows"].items():
            row = self.rows.setdefault(name, Row())
            for column, count in counts.items():
                setattr(row, column, getattr(row, column) + count)
        self.notes += other["notes"]

    def table(self) -> list[str]:
        width = max(len(name) for name in ("all", *self.rows))
        lines = [" | ".join(["fault".ljust(width), *COLUMNS]), "-" * (width + 6 + 3 * len(COLUMNS) + 80)]
        total = Row()
        for name, row in self.rows.items():
            lines.append(_line(name.ljust(width), row))
            for field_name in vars(total):
                setattr(total, field_name, getattr(total, field_name) + getattr(row, field_name))
        return [*lines, _line("all".ljust(width), total), *self.notes]


def _line(name: str, row: Row) -> str:
    cells = (row.injected, f"{row.finished} of {row.searches}", row.lost, row.repeated, row.duplicated, row.missing)
    return " | ".join([name, *(str(cell).rjust(len(column)) for cell, column in zip(cells, COLUMNS, strict=True))])


if __name__ == "__main__":
    all_runs = Tally()
    for name in sys.argv[1:]:
        all_runs.take(Path(name))
    print("\n".join(all_runs.table()))

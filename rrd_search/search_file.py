"""search.yaml: what a search was begun with, in its folder, beside its study."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trainables.whole_file import write_whole

if TYPE_CHECKING:  # importing torch takes seconds, which those who only read the file do not wait for
    from trainables.teacher import TeacherFile

AUDIT_STOPS = 2  # where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class SearchFile:
    """``space`` is the name or path it was loaded by; ``teacher`` holds ``weights``, ``trained_here`` and
    ``val_accuracy``; ``trials`` is how many were asked for last; ``warm_start`` is whose trials are its history."""

    space: str
    trials: int
    sampler: str
    scheduler: str
    seed: int
    data_root: str
    teacher: dict[str, Any]
    independent_schedules: bool = False
    audit_stops: int = AUDIT_STOPS
    warm_start: str | None = None

    def write(self, folder: Path) -> None:
        write_whole(folder / "search.yaml", yaml.safe_dump(asdict(self), sort_keys=False).encode())


def read_search_file(folder: Path) -> SearchFile | None:
    """What the folder's search was begun with; None where none was begun. ValueError for a damaged file."""
    path = folder / "search.yaml"
    if not path.is_file():
        return None
    try:
        return SearchFile(**yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def data_root_of(given: Path | None, folder: Path, default: Path) -> Path:
    """Where datasets are: as given, else where the folder's search reads them, if this machine has that."""
    if given is not None:
        return given.absolute()
    begun = read_search_file(folder)
    root = Path(begun.data_root) if begun is not None else default
    return root if root.is_dir() else default  # another machine's may be anywhere


def teacher_facts(teacher: TeacherFile | None) -> dict[str, Any]:
    if teacher is None:
        return {}
    return {"weights": teacher.weights, "trained_here": teacher.trained_here, "val_accuracy": teacher.val_accuracy}

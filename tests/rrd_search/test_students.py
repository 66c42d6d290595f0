"""Which students stay while trials end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rrd_search.students import KEPT, Students, trial_folder
from trainables.mirror import Mirror
from trainables.places import Places


def test_the_best_stay_whatever_the_order_in_which_they_end(tmp_path: Path) -> None:
    values: dict[str, float] = {}
    study: Any = SimpleNamespace(ranked=lambda: sorted(values, key=lambda one: -values[one]))

    def end(trial_id: str, value: float) -> None:
        values[trial_id] = value
        folder = trial_folder(tmp_path, trial_id)
        folder.mkdir(parents=True)
        for name in ("student.safetensors", "best_student.safetensors", "result.json"):
            (folder / name).touch()

    def left() -> set[str]:
        return {file.parent.name for file in tmp_path.rglob("*student.safetensors")}

    for number, value in enumerate((0.1, 0.2, 0.5, 0.6, 0.4)):
        end(f"early {number}", value)
    students = Students(tmp_path, study, Mirror(Places(storage=tmp_path, data_root=tmp_path)))
    assert left() == {"early 2", "early 3", "early 4"}
    for trial_id, value, stay in (
        ("worse", 0.3, {"early 2", "early 3", "early 4"}),
        ("better", 0.7, {"early 2", "early 3", "better"}),
        ("between", 0.55, {"between", "early 3", "better"}),
    ):
        end(trial_id, value)
        students.ended(trial_id)
        assert left() == stay
    assert len(stay) == KEPT
    assert len(list(tmp_path.rglob("result.json"))) == 8

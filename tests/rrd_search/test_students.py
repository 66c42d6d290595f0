"""Which students stay while trials end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rrd_search.students import KEPT, Students, forget_stopped, trial_folder
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


class Counting(Mirror):
    """A mirror that is asked, and has one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Places(storage=folder, data_root=folder))
        self.deleted: list[str] = []

    def delete(self, path: Path) -> None:
        self.deleted.append(path.name)

    def folders(self, folder: Path) -> set[str]:
        return {"stopped there", "complete"}


def test_a_store_is_not_asked_about_what_is_long_gone(tmp_path: Path) -> None:
    ranked = [f"{number}" for number in range(9)]
    trials = [("complete", "complete"), ("stopped there", "pruned"), ("stopped here", "failed"), ("gone", "pruned")]
    study: Any = SimpleNamespace(
        ranked=lambda: ranked, trials=lambda: [SimpleNamespace(trial_id=one, state=state) for one, state in trials]
    )
    left = trial_folder(tmp_path, "7") / "student.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    mirror = Counting(tmp_path)
    Students(tmp_path, study, mirror)
    assert mirror.deleted == ["student.safetensors", "best_student.safetensors"], "of 7 alone"
    mirror.deleted.clear()
    trial_folder(tmp_path, "stopped here").mkdir()
    forget_stopped(tmp_path, study, mirror)
    assert mirror.deleted == ["stopped there", "stopped here"]

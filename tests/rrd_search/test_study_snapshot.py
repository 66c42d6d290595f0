"""A study that is lost, truncated or changed by a bit is found out, and its snapshot takes its place."""

import contextlib
import errno
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from rrd_search.optuna_searcher import Study
from rrd_search.space import Space
from rrd_search.study_snapshot import Snapshot, read_snapshot, repair
from rrd_search.trial_records import TrialRecord
from trainables.config import TrialConfig
from trainables.mirror import Mirror
from trainables.places import Places

TOLD = 5


def space(trial: optuna.Trial, base: TrialConfig) -> TrialConfig:
    return base.with_values({"loss.weight": trial.suggest_float("loss.weight", 0.1, 10.0, log=True)})


def open_at(database: Path) -> Study:
    return Study(f"sqlite:///{database}", "s", Space(name="s", function=space, base=TrialConfig()), "random")


def told(database: Path) -> list[TrialRecord]:
    study = open_at(database)
    trials = [trial for trial in study.trials() if trial.state != "running"]
    study.close()
    return trials


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with five trials that were told, one that runs, and a snapshot from before that one."""
    folder = tmp_path_factory.mktemp("made")
    study = open_at(folder / "study.db")
    snapshot = Snapshot(study.storage, folder / "study.snapshot", mirror_of(folder))
    for number in range(TOLD):
        proposal = study.propose()
        assert proposal is not None
        for epoch in range(1, 4):
            study.report(proposal.trial_id, epoch, 0.1 * epoch + number / 100)
        study.tell(proposal.trial_id, "complete", 0.3 + number / 100)
    snapshot.take()
    study.propose()
    study.close()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def repaired(folder: Path) -> list[str]:
    said: list[str] = []
    repair(folder / "study.db", folder / "study.snapshot", said.append)
    return said


def test_a_whole_study_is_left_alone(folder: Path, made: Path) -> None:
    assert repaired(folder) == []
    assert len(told(folder / "study.db")) == TOLD


def test_a_lost_study_comes_back(folder: Path, made: Path) -> None:
    expected = told(made / "study.db")
    (folder / "study.db").unlink()
    assert "is not there" in repaired(folder)[0]
    assert told(folder / "study.db") == expected
    study = open_at(folder / "study.db")
    assert study.propose() is not None
    study.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_bit_is_flipped_no_trial_is_changed(seed: int, folder: Path, made: Path) -> None:
    expected = told(made / "study.db")
    database, generator = folder / "study.db", random.Random(seed)
    content = bytearray(database.read_bytes())
    for _ in range(3):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    database.write_bytes(bytes(content))
    repaired(folder)
    assert told(database) == expected


def test_a_value_that_was_changed_is_found_out(folder: Path, made: Path) -> None:
    expected = told(made / "study.db")
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("update trial_values set value = value + 0.5 where trial_id = 2")
    database.close()
    assert "trial values are not those" in repaired(folder)[0]
    assert told(folder / "study.db") == expected
    assert list(folder.glob("damaged-*"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_study_goes_back_to_its_snapshot(share: float, folder: Path, made: Path) -> None:
    expected = told(made / "study.db")
    content = (folder / "study.db").read_bytes()
    (folder / "study.db").write_bytes(content[: int(share * len(content))])
    assert "was damaged" in repaired(folder)[0]
    assert told(folder / "study.db") == expected


def test_a_damaged_snapshot_is_not_trusted(folder: Path) -> None:
    snapshot = folder / "study.snapshot"
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(bytes(content))
    assert read_snapshot(snapshot) is None
    assert repaired(folder) == []  # the study itself is whole
    (folder / "study.db").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="missing or damaged too"):
        repaired(folder)


def test_a_study_that_cannot_be_read_now_is_left_alone(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as other:
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin exclusive")
        with pytest.raises(OSError, match="cannot be read now: database is locked"):
            repaired(folder)
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".db-shm") == before


def test_a_lost_study_with_a_damaged_snapshot_does_not_begin_anew(folder: Path) -> None:
    (folder / "study.db").unlink()
    (folder / "study.snapshot").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="nothing is left to go on from"):
        repaired(folder)


def test_a_full_disk_while_it_is_repaired_moves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.db").write_bytes(b"nothing of the kind")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rrd_search.study_snapshot.write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        repaired(folder)
    assert (folder / "study.db").read_bytes() == b"nothing of the kind"


@pytest.mark.parametrize(("remote", "expected"), [(False, 1), (True, 4)], ids=["local", "mirrored"])
def test_snapshots_take_a_small_share_of_the_time_or_follow_every_trial(
    remote: bool, expected: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_at(folder / "study.db")
    (tmp_path / "there").mkdir()
    snapshot = Snapshot(
        study.storage, folder / "study.snapshot", mirror_of(folder, tmp_path / "there" if remote else None)
    )
    taken: list[Any] = []
    take = snapshot.take
    monkeypatch.setattr(snapshot, "take", lambda: (taken.append(1), take()))
    for _ in range(4):
        snapshot.told()
    assert len(taken) == expected
    study.close()
    if remote:
        assert read_snapshot(tmp_path / "there" / "study.snapshot") is not None


def mirror_of(folder: Path, there: Path | None = None) -> Mirror:
    return Mirror(Places(storage=folder, data_root=folder, remote=f"file://{there}" if there else None))

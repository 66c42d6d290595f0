"""Truncated and bit-flipped files of every kind: each damage is found, nothing damaged is trusted, and what can be made
again is."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import tiny_space
import torch
from safetensors.torch import load_file
from tally import Tally

from rrd_search.export_folder import check_networks, write_provenance
from rrd_search.optuna_searcher import Study
from rrd_search.space import load_space
from rrd_search.student_program import StudentProgram, save_program
from rrd_search.study_snapshot import Snapshot, repair
from trainables.config import TrialConfig
from trainables.data.image_file import DamagedFile, read_images
from trainables.data.parts import load_training
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.result import finished_report
from trainables.table_file import DamagedTable, read_rows
from trainables.teacher import TeacherFile, make_teacher, with_weights
from trainables.weights import load_network, read_weights
from trainables.worker import Task, Worker

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
EPOCHS = 4
Damage = Callable[[bytes, random.Random], bytes]


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flipped(content: bytes, chance: random.Random) -> bytes:
    """One bit of it."""
    place, changed = chance.randrange(len(content)), bytearray(content)
    changed[place] ^= 1 << chance.randrange(8)
    return bytes(changed)


DAMAGES: list[Damage] = [truncated, flipped]
Read = TypeVar("Read")


def unless_found(read: Callable[[], Read], error: type[Exception], file: Path) -> Read | None:
    """What was read; None where the damage was found, and said in one line with the file's name."""
    try:
        return read()
    except error as said:
        if str(file) not in str(said) or "\n" in str(said):
            raise
        return None


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    storage = tmp_path_factory.mktemp("storage")
    return Places(storage=storage, data_root=storage)


@pytest.fixture(scope="module")
def config(places: Places) -> TrialConfig:
    torch.set_num_threads(1)
    config = replace(tiny_space.BASE, epochs=EPOCHS)
    *_, teacher = make_teacher(config, places, CPU)
    assert isinstance(teacher, TeacherFile)
    return with_weights(config, teacher.weights)


@pytest.fixture(scope="module")
def half(config: TrialConfig, places: Places, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a trial that was killed after its second epoch, which had written a checkpoint after each."""
    worker = Worker(Task(config=config, places=places, folder=tmp_path_factory.mktemp("half")), CPU)
    files = {}
    for _ in range(2):
        worker.epoch()
        worker.write_checkpoint()
        newest = max(worker.task.folder.glob("checkpoint*"))
        files[newest.name] = newest.read_bytes()
    return files


@pytest.fixture(scope="module")
def whole(config: TrialConfig, places: Places, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial that nothing happened to."""
    worker = Worker(Task(config=config, places=places, folder=tmp_path_factory.mktemp("whole")), CPU)
    while not worker.finished:
        worker.epoch()
    worker.finish()
    return worker.task.folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoint(
    damage: Damage,
    half: dict[str, bytes],
    config: TrialConfig,
    places: Places,
    long: bool,
    tmp_path: Path,
    tally: Tally,
) -> None:
    """The newest is damaged: the trial goes on from the one before it. Both are: it starts again."""
    chance, times, names = random.Random(0), 25 if long else 3, sorted(half)
    for number in range(times):
        task = Task(config=config, places=places, folder=tmp_path / str(number))
        task.folder.mkdir()
        both = number % 5 == 4
        for name in names:
            hit = both or name == names[-1]
            (task.folder / name).write_bytes(damage(half[name], chance) if hit else half[name])
        worker = Worker(task, CPU)
        assert worker.training.epoch == (0 if both else 1), f"{damage.__name__} {number}"
        tally.add(f"checkpoint {damage.__name__}", 1 + both)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_trial_with_a_damaged_checkpoint_ends_like_any(
    damage: Damage,
    half: dict[str, bytes],
    config: TrialConfig,
    places: Places,
    whole: Path,
    tmp_path: Path,
    tally: Tally,
) -> None:
    newest = max(half)
    for name, content in half.items():
        (tmp_path / name).write_bytes(damage(content, random.Random(1)) if name == newest else content)
    worker = Worker(Task(config=config, places=places, folder=tmp_path), CPU)
    while not worker.finished:
        worker.epoch()
    worker.finish()
    ours, theirs = load_file(tmp_path / "student.safetensors"), load_file(whole / "student.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tally.add(f"checkpoint {damage.__name__}", 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_result(damage: Damage, whole: Path, long: bool, tmp_path: Path, tally: Tally) -> None:
    chance, content = random.Random(0), (whole / "result.json").read_bytes()
    before = finished_report(whole)
    for _ in range(25 if long else 3):
        (tmp_path / "result.json").write_bytes(damage(content, chance))
        report = unless_found(partial(finished_report, tmp_path), ValueError, tmp_path)
        assert report in (None, before), "a damaged result was trusted"
        tally.add(f"result of a trial {damage.__name__}", 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_student(damage: Damage, whole: Path, config: TrialConfig, long: bool, tmp_path: Path, tally: Tally) -> None:
    chance, content = random.Random(0), (whole / "student.safetensors").read_bytes()
    before, file = read_weights(whole / "student.safetensors"), tmp_path / "student.safetensors"
    for _ in range(25 if long else 3):
        file.write_bytes(damage(content, chance))
        if (network := unless_found(partial(load_network, file, config.student, 10), ValueError, file)) is not None:
            held = network.state_dict()
            assert all(torch.equal(held[name], before[name]) for name in before), "damaged weights were trusted"
        tally.add(f"student {damage.__name__}", 1)


@pytest.fixture(scope="module")
def exported(whole: Path, config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of an exported folder."""
    folder = tmp_path_factory.mktemp("exported")
    weights = folder / "student.safetensors"
    weights.write_bytes((whole / weights.name).read_bytes())
    program = StudentProgram(load_network(weights, config.student, 10), (0.5,) * 3, (0.5,) * 3)
    save_program(program, config.data.image_size, folder / "student.pt2")
    write_provenance(folder, {})
    return folder


@pytest.mark.parametrize("name", ["student.pt2", "student.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_exported(damage: Damage, name: str, exported: Path, long: bool, tmp_path: Path, tally: Tally) -> None:
    folder, chance = shutil.copytree(exported, tmp_path / "best"), random.Random(0)
    file, content = folder / name, (exported / name).read_bytes()
    check_networks(folder)
    for _ in range(25 if long else 3):
        file.write_bytes(damage(content, chance))
        with pytest.raises(ValueError, match="is missing or damaged"):
            check_networks(folder)
        tally.add(f"exported {name} {damage.__name__}", 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_teacher(damage: Damage, config: TrialConfig, places: Places, long: bool, tmp_path: Path, tally: Tally) -> None:
    """Its weights are known by their hash, so that a trial with another teacher never starts."""
    chance = random.Random(0)
    (file,) = (places.storage / "teachers").glob("*.safetensors")
    content = file.read_bytes()
    before = read_weights(file)
    try:
        for number in range(10 if long else 2):
            file.write_bytes(damage(content, chance))
            task = Task(config=config, places=places, folder=tmp_path / str(number))
            worker = unless_found(partial(Worker, task, CPU), OSError, file)
            if worker is not None:
                assert worker.materials.teacher is not None
                held = worker.materials.teacher.network.state_dict()
                assert all(torch.equal(held[name], before[name]) for name in before), "a damaged teacher was trusted"
            tally.add(f"teacher {damage.__name__}", 1)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_table(damage: Damage, whole: Path, places: Places, long: bool, tmp_path: Path, tally: Tally) -> None:
    """``whole`` has had the teacher's table made."""
    chance, file = random.Random(0), next((places.storage / "tables").glob("*/epoch-*.arrow"))
    content, size = file.read_bytes(), (1080, 64)
    before = np.array(read_rows(file, size, np.dtype(np.float16)))
    for number in range(25 if long else 3):
        changed = tmp_path / f"{number}.arrow"
        changed.write_bytes(damage(content, chance))
        rows = unless_found(partial(read_rows, changed, size, np.dtype(np.float16)), DamagedTable, changed)
        assert rows is None or np.array_equal(rows, before), "a damaged table was trusted"
        tally.add(f"teacher's table {damage.__name__}", 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_data(damage: Damage, config: TrialConfig, places: Places, long: bool, tally: Tally) -> None:
    """Damaged images are decoded again."""
    chance = random.Random(0)
    images = load_training(config.data, places.storage, places.data_root).part
    pixels, labels = images.images.copy(), images.labels.copy()
    file = next((places.storage / "data").glob("*.train.arrow"))
    content = file.read_bytes()
    for _ in range(25 if long else 3):
        file.unlink()  # the map of it stays what it was
        file.write_bytes(damage(content, chance))
        found = unless_found(partial(read_images, file), DamagedFile, file)
        assert found is None or np.array_equal(found.images, pixels), "damaged images were trusted"
        assert found is None or np.array_equal(found.labels, labels), "damaged labels were trusted"
        again = load_training(config.data, places.storage, places.data_root).part
        assert np.array_equal(again.images, pixels)
        assert np.array_equal(again.labels, labels)
        tally.add(f"data file {damage.__name__}", 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of ten told trials, with its snapshot."""
    folder = tmp_path_factory.mktemp("study")
    study = _open(folder)
    for number in range(10):
        proposal = study.propose()
        assert proposal is not None
        for epoch in range(1, 5):
            study.report(proposal.trial_id, epoch, (number + epoch) / 20)
        study.tell(proposal.trial_id, "complete", number / 20)
    Snapshot(study.storage, folder / "study.snapshot", Mirror(Places(storage=folder, data_root=folder))).take()
    study.close()
    return folder


def _open(folder: Path) -> Study:
    return Study(f"sqlite:///{folder}/study.db", "tiny", load_space(str(Path(tiny_space.__file__))), "random")


@pytest.mark.parametrize("damage", DAMAGES)
def test_study(damage: Damage, study: Path, long: bool, tmp_path: Path, tally: Tally) -> None:
    """The snapshot takes its place. What is not found has changed nothing."""
    chance, content = random.Random(0), (study / "study.db").read_bytes()
    opened = _open(study)
    before = [vars(trial) for trial in opened.trials()]
    opened.close()
    for number in range(30 if long else 4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "study.snapshot").write_bytes((study / "study.snapshot").read_bytes())
        (folder / "study.db").write_bytes(damage(content, chance))
        said: list[str] = []
        repair(folder / "study.db", folder / "study.snapshot", said.append)
        again = _open(folder)
        assert [vars(trial) for trial in again.trials()] == before, f"{damage.__name__} {number}: {said}"
        again.close()
        with sqlite3.connect(folder / "study.db") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",), f"{damage.__name__} {number}"
        tally.add(f"study {damage.__name__}", 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_not_gone_back_to(damage: Damage, study: Path, tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(0)
    (tmp_path / "study.snapshot").write_bytes(damage((study / "study.snapshot").read_bytes(), chance))
    (tmp_path / "study.db").write_bytes(truncated((study / "study.db").read_bytes(), chance))
    with pytest.raises(ValueError, match="is damaged") as error:
        repair(tmp_path / "study.db", tmp_path / "study.snapshot", print)
    assert "\n" not in str(error.value)
    tally.add(f"study and snapshot {damage.__name__}", 2)

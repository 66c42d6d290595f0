"""The teacher's table: its rows are those of a live teacher, its work is bounded, and nothing is half written."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables import table_file
from trainables.config import KD, RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.losses.rrd import RRD as RRDLoss
from trainables.materials import Materials
from trainables.outputs import Batch, Outputs
from trainables.places import Places
from trainables.teacher import TeacherFile, make_teacher, with_weights
from trainables.teacher_table import TeacherTable
from trainables.worker import Task, Worker

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def teacher_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def config(teacher_storage: Path) -> TrialConfig:
    config = TrialConfig(
        data=DataConfig(name="digits", image_size=16, padding=1, held_out=0.6),  # 9 views
        teacher=TeacherConfig(architecture="resnet8", epochs=1, table_precision="float32"),
        loss=RRD.Config(queue_size=100, projection_dim=16),
        kd_weight=0.5,
        epochs=3,
    )
    *_, teacher = make_teacher(config, Places(storage=teacher_storage, data_root=teacher_storage), CPU)
    assert isinstance(teacher, TeacherFile)
    return with_weights(config, teacher.weights)


@pytest.fixture
def places(teacher_storage: Path, tmp_path: Path) -> Places:
    """With the module's teacher and images, and no tables yet."""
    for name in ("teachers", "data"):
        (tmp_path / name).symlink_to(teacher_storage / name)
    return Places(storage=tmp_path, data_root=tmp_path)


def opened(config: TrialConfig, places: Places) -> tuple[Materials, TeacherTable]:
    materials = Materials(config, places, CPU)
    assert materials.table is not None
    return materials, materials.table


def images(materials: Materials) -> int:
    return len(materials.images.train_ids)


def served(materials: Materials, teacher: Callable[[Batch], Outputs], epoch: int) -> list[tuple[Batch, Outputs]]:
    return [(batch, teacher(batch)) for batch in materials.batches.epoch(epoch, 64)]


def test_float32_rows_are_those_of_a_live_teacher_bit_for_bit(config: TrialConfig, places: Places) -> None:
    materials, table = opened(config, places)
    for epoch in (1, 4, 9, 10):  # of 9 views: the last two are entries 0 and 1
        for batch, found in served(materials, table.epoch(epoch, 10), epoch):
            live = materials.teacher(batch)
            assert torch.equal(found.embedding, live.embedding)
            assert torch.equal(found.logits, live.logits)
    assert table.max_difference == 0


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_tabulated_trial_ends_bit_for_bit_like_a_live_one(
    precision: str, config: TrialConfig, places: Places
) -> None:
    one = replace(config, teacher=replace(config.teacher, table_precision=precision))
    weights, shown = [], []
    for table_gb in (0.0, 1.0):
        folder = places.storage / str(table_gb)
        worker = Worker(Task(config=one, places=replace(places, table_gb=table_gb), folder=folder), CPU)
        while not worker.finished:
            worker.epoch()
        weights.append(worker.training.distiller.state_dict())
        shown.append(worker.materials.shown)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    count = images(worker.materials)
    assert shown == [3 * (count - count % 64), 3 * count + 16]


def test_float16_changes_the_gradient_by_less_than_5e_4(config: TrialConfig, places: Places) -> None:
    half = replace(config, teacher=replace(config.teacher, table_precision="float16"))
    materials, exact = opened(config, places)
    _, rounded = opened(half, places)
    loss = RRDLoss(RRD.Config(queue_size=256, projection_dim=32), student_dim=64, teacher_dim=64)
    student = torch.randn(64, 64, requires_grad=True)
    for batch in list(materials.batches.epoch(1, 64))[:6]:  # the queue fills from the table as well
        gradients = []
        for table in (exact, rounded):
            state = {name: buffer.clone() for name, buffer in loss.state_dict().items()}
            says = Outputs((), student, student)
            (gradient,) = torch.autograd.grad(loss(says, table.epoch(1, 1)(batch)), student)
            gradients.append(gradient)
            if table is exact:
                loss.load_state_dict(state)
        assert ((gradients[0] - gradients[1]).norm() / gradients[0].norm()).item() <= 5e-4


def test_a_search_shows_each_view_once(config: TrialConfig, places: Places) -> None:
    """Two trials of 3 epochs and one of 11, of 9 views: 9 passes over the images; and one unaugmented, for pca."""
    shown = 0.0
    pca = RRD.Config(queue_size=100, projection_dim=16, teacher_projection="pca")
    for number, epochs in enumerate((3, 3, 11)):
        one = replace(config, seed=number, epochs=epochs, loss=pca if number else config.loss)
        worker = Worker(Task(config=one, places=places, folder=places.storage / str(number)), CPU)
        while not worker.finished:
            worker.epoch()
        assert worker.summary()["teacher_images"] == sum(metrics["teacher_images"] for metrics in worker.curve)
        shown += worker.summary()["teacher_images"]
    count = len(worker.materials.images.train_ids)
    checked = 3 * 16  # a sample of the first file, in each of these processes
    assert shown == 9 * count + count + checked
    assert len(list((places.storage / "tables").glob("*/epoch-*.arrow"))) == 9


def test_two_trials_at_once_compute_different_epochs(config: TrialConfig, places: Places) -> None:
    sums = []

    def trial() -> None:
        materials, table = opened(config, places)
        for epoch in range(1, 7):
            table.epoch(epoch, 6)
        sums.append(materials.shown - 16)

    threads = [threading.Thread(target=trial) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    materials, _ = opened(config, places)
    assert sum(sums) == 6 * images(materials)
    assert min(sums) > 0


KILLED = """
import os, sys
from pathlib import Path
import torch
from trainables import teacher_table
from trainables.config import TrialConfig
from trainables.places import Places
from trainables.materials import Materials
torch.set_num_threads(1)
storage = Path(sys.argv[1])
write = teacher_table.write_rows
def slow(draft, path, column, rows):
    with draft.open("wb") as file:
        file.write(b"half of a file")
    print("writing", flush=True)
    import time; time.sleep(600)
teacher_table.write_rows = slow
config = TrialConfig.from_yaml(storage / "config.yaml")
Materials(config, Places(storage=storage, data_root=storage), torch.device("cpu")).table.epoch(1, 1)
"""


def test_a_killed_builder_leaves_nothing_half_written(config: TrialConfig, places: Places) -> None:
    (places.storage / "config.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-c", KILLED, str(places.storage)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        os.kill(child.pid, signal.SIGKILL)
    assert not list((places.storage / "tables").glob("*/*.arrow"))
    materials, table = opened(config, places)
    table.epoch(1, 1)
    assert materials.shown == images(materials) + 16
    assert [file.suffix for file in (places.storage / "tables").glob("*/epoch-*") if file.suffix != ".lock"] == [
        ".arrow"
    ]


def test_a_damaged_file_is_computed_again(
    config: TrialConfig, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    opened(config, places)[1].epoch(1, 1)
    (path,) = (places.storage / "tables").glob("*/*.arrow")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    materials, table = opened(config, places)
    table.epoch(1, 1)
    assert materials.shown == images(materials) + 16
    assert "checksum" in caplog.text


def test_a_file_that_does_not_hold_what_the_teacher_says_is_refused(config: TrialConfig, places: Places) -> None:
    _, table = opened(config, places)
    table.epoch(1, 1)
    (path,) = (places.storage / "tables").glob("*/*.arrow")
    rows = np.array(table_file.read_rows(path, (len(table.batches.ids), table.width), table.dtype))
    assert table_file.write_rows(path.with_suffix(".draft"), path, "embedding", rows[::-1].copy())
    with pytest.raises(ValueError, match="does not hold what the teacher says"):
        opened(config, places)[1].epoch(1, 1)


def test_tables_stay_below_their_bound(config: TrialConfig, places: Places) -> None:
    materials, table = opened(config, places)
    of_one = images(materials) * 64 * 4 + 2048
    bounded = replace(places, table_gb=2.5 * of_one / 2**30)
    materials, table = opened(config, bounded)
    for epoch in range(1, 6):
        table.epoch(epoch, 5)
    assert materials.shown == 2 * images(materials) + 16
    held = sum(file.stat().st_size for file in (places.storage / "tables").glob("*/*.arrow"))
    assert held <= 2.5 * of_one
    # Another table takes the place of one that nobody has read for long, and of no other.
    other = replace(config, data=replace(config.data, schedule_seed=5))
    opened(other, bounded)[1].epoch(1, 1)
    assert len(list((places.storage / "tables").glob("*/*.arrow"))) == 2
    (old,) = {file.parent for file in (places.storage / "tables").glob("*/*.arrow")}
    os.utime(old, (time.time() - 7200,) * 2)
    opened(other, bounded)[1].epoch(1, 1)
    assert not old.exists()


def test_the_key_holds_all_that_the_rows_depend_on(config: TrialConfig, places: Places) -> None:
    data, teacher = config.data, config.teacher
    others = [
        replace(config, data=replace(data, schedule_seed=1)),
        replace(config, data=replace(data, held_out=0.1)),
        replace(config, data=replace(data, padding=2)),
        replace(config, teacher=replace(teacher, table_precision="float16")),
        replace(config, precision="bfloat16"),
    ]
    folders = {opened(one, places)[1]._folder for one in (config, *others)}
    assert len(folders) == 6
    same = replace(config, seed=3, epochs=7, batch_size=32, student="resnet14", loss=RRD.Config(weight=3.0))
    assert opened(same, places)[1]._folder == opened(config, places)[1]._folder


def test_logits_are_stored_where_no_loss_reads_embeddings(config: TrialConfig, places: Places) -> None:
    materials, table = opened(replace(config, loss=KD.Config(), kd_weight=0.0), places)
    assert (table.column, table.width) == ("logits", 10)
    for batch, found in served(materials, table.epoch(1, 1), 1):
        assert torch.equal(found.logits, materials.teacher(batch).logits)


def test_what_float16_cannot_hold_is_said(config: TrialConfig, places: Places) -> None:
    half = replace(config, teacher=replace(config.teacher, table_precision="float16"))
    materials, table = opened(half, places)
    materials.teacher.network.bn1.bias.data += 1e6
    with pytest.raises(ValueError, match=r"do not fit float16: give --set teacher\.table_precision=float32"):
        table.epoch(1, 1)


def test_a_table_that_is_in_use_stays(config: TrialConfig, places: Places) -> None:
    """Also where its files are mapped already, so that nobody opens them any more."""
    _, table = opened(config, places)
    table.epoch(1, 1)
    os.utime(table._folder, (time.time() - 7200,) * 2)
    table.epoch(1, 1)
    assert time.time() - table._folder.stat().st_mtime < 3600


def test_a_draft_that_becomes_a_file_meanwhile_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def gone(path: Path, **more: bool) -> os.stat_result:
        if path.name == "other.draft":
            raise FileNotFoundError(path)
        return stat(path, **more)

    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "other.draft").touch()
    monkeypatch.setattr(Path, "stat", gone)
    assert table_file.reserve(tmp_path / "key" / "epoch-0001.arrow", 1000, 10**6) is not None

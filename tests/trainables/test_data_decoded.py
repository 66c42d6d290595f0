"""Decoded files: made once, mapped, shared, made again when damaged; and that a search never reads the test part."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import real_formats

from trainables.data import image_file
from trainables.data.config import DataConfig
from trainables.data.dataset import Dataset
from trainables.data.decoded import decoded_path, open_part
from trainables.data.parts import load_test, load_training

DIGITS = DataConfig(name="digits")


def arrow_files(storage: Path) -> list[str]:
    return sorted(path.name for path in (storage / "data").iterdir() if path.suffix != ".lock")


def test_a_part_is_decoded_once_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_part(DIGITS, "train", tmp_path, tmp_path)
    monkeypatch.setattr(Dataset, "read", None)  # nothing is read again
    allocated = pa.total_allocated_bytes()
    again = open_part(DIGITS, "train", tmp_path, tmp_path)
    assert pa.total_allocated_bytes() == allocated  # mapped, not copied
    assert not again.images.flags.writeable
    assert not again.labels.flags.writeable
    assert again.images.shape == (len(again), 3, 16, 16)
    assert np.array_equal(again.images, first.images)
    assert again.classes == tuple("0123456789")
    assert (again.mean, again.std, again.sha256) == (first.mean, first.std, first.sha256)
    (name,) = arrow_files(tmp_path)
    assert name == decoded_path(DIGITS, "train", tmp_path, tmp_path).name
    assert name.startswith("digits-16px-")
    assert name.endswith(".train.arrow")


def test_decoded_images_outlive_the_published_files(tmp_path: Path) -> None:
    images, labels = real_formats.write_cifar10(tmp_path / "root")["train"]
    config = DataConfig(name="cifar10")
    open_part(config, "train", tmp_path, tmp_path / "root")
    part = open_part(config, "train", tmp_path, tmp_path / "nowhere")
    assert np.array_equal(part.images, images)
    assert np.array_equal(part.labels, labels)
    assert part.mean == (0.4914, 0.4822, 0.4465)
    other_size = DataConfig(name="cifar10", image_size=48)
    assert open_part(other_size, "train", tmp_path, tmp_path / "root").images.shape[-1] == 48
    assert len(arrow_files(tmp_path)) == 2


def test_a_search_never_reads_the_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = Dataset.read, []

    def recorded(dataset: Dataset, root: Path, part: str, image_size: int) -> object:
        asked.append(part)
        return read(dataset, root, part, image_size)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "read", recorded)
    training = load_training(DIGITS, tmp_path, tmp_path)
    assert asked == ["train"]
    assert [name.split(".")[1] for name in arrow_files(tmp_path)] == ["train"]
    assert len(training.part) == 1200
    assert len(training.held_out_ids) == 120
    assert sorted([*training.train_ids, *training.held_out_ids]) == list(range(1200))
    assert len(load_test(DIGITS, tmp_path, tmp_path)) == 597
    assert asked == ["train", "test"]


def damage_nothing_left(content: bytes) -> bytes:
    return b""


def damage_garbage(content: bytes) -> bytes:
    return b"garbage" * 1000


def damage_truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_last_byte(content: bytes) -> bytes:
    return content[:-1]


def damage_pixel(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_zeroed(content: bytes) -> bytes:
    return bytes(len(content))


DAMAGES = [damage_nothing_left, damage_garbage, damage_truncated, damage_last_byte, damage_pixel, damage_zeroed]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_decoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object) -> None:
    first = open_part(DIGITS, "test", tmp_path, tmp_path)
    want = np.array(first.images)
    path = decoded_path(DIGITS, "test", tmp_path, tmp_path)
    content = path.read_bytes()
    path.unlink()  # not in place: the first one is still mapped
    path.write_bytes(damage(content))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        again = open_part(DIGITS, "test", tmp_path, tmp_path)
    assert np.array_equal(again.images, want)
    assert path.read_bytes() == content
    (record,) = caplog.records
    assert f"{path} is damaged" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_every_truncation_is_noticed_without_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "_CHECKSUM_UP_TO_BYTES", 0)
    open_part(DIGITS, "test", tmp_path, tmp_path)
    path = decoded_path(DIGITS, "test", tmp_path, tmp_path)
    content = path.read_bytes()
    for number, length in enumerate(range(0, len(content), len(content) // 50)):
        broken = tmp_path / f"{number}.arrow"
        broken.write_bytes(content[:length])
        with pytest.raises(image_file.DamagedFile, match="is damaged"):
            image_file.read_images(broken)


def test_a_file_of_another_table_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "other.arrow"
    table = pa.record_batch({"a": [1, 2, 3]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_batch(table)
    with pytest.raises(image_file.DamagedFile, match="is damaged"):
        image_file.read_images(path)


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    path = decoded_path(DIGITS, "test", tmp_path, tmp_path)
    path.parent.mkdir(parents=True)
    (path.parent / f"{path.name}.123.partial").write_bytes(b"half")
    open_part(DIGITS, "test", tmp_path, tmp_path)
    assert arrow_files(tmp_path) == [path.name]


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^digits cannot be decoded into .*/file/data/digits-16px-.*Not a directory"):
        open_part(DIGITS, "train", tmp_path / "file", tmp_path)


PROCESS = """
import sys, time
from pathlib import Path
from trainables.data.config import DataConfig
from trainables.data.dataset import Dataset
from trainables.data.parts import load_training

storage, read = Path(sys.argv[1]), Dataset.read
def recorded(*arguments):
    with (storage / "decodings").open("a") as log:
        log.write("one\\n")
    time.sleep(0.5)
    return read(*arguments)
Dataset.read = recorded
print(load_training(DataConfig(name="digits"), storage, storage).part.sha256)
"""


def test_two_processes_decode_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1] != ""
    assert (tmp_path / "decodings").read_text() == "one\n"


CORE_ONLY = """
import sys, importlib, pkgutil
import trainables.data
for module in pkgutil.walk_packages(trainables.data.__path__, "trainables.data."):
    importlib.import_module(module.name)
print(*sorted({"ray", "mlflow", "optuna", "sklearn", "torchvision", "pandas"} & set(sys.modules)))
"""


def test_nothing_but_the_core_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", CORE_ONLY], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"

"""Checkpoints in every published form, what is said of others, and teachers that are made once."""

import argparse
import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.config import RRD, DataConfig, TeacherConfig, TrialConfig
from trainables.materials import Materials
from trainables.models import MODELS
from trainables.places import Places
from trainables.teacher import TeacherFile, TeacherProgress, load_teacher, make_teacher, stored_teacher, with_weights
from trainables.weights import load_network, save_weights, weights_hash

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet8"](num_classes=100)


def written(form: str, network: nn.Module, folder: Path) -> Path:
    state = network.state_dict()
    path = folder / ("teacher.safetensors" if form == "safetensors" else "teacher.pth")
    forms = {
        "epoch": {"epoch": 240, "model": state, "accuracy": torch.tensor([72.3]), "optimizer": {"lr": 0.05}},
        "bare": state,
        "last": {"opt": argparse.Namespace(model="resnet8", lr=0.05, decay=[150, 180]), "model": state},
        "parallel": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
        "no counters": {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    }
    if form == "safetensors":
        save_weights(state, path)
    elif form == "legacy":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(forms[form], path)
    return path


FORMS = ["epoch", "bare", "last", "parallel", "no counters", "legacy", "safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, network: nn.Module, tmp_path: Path) -> None:
    loaded = load_network(written(form, network, tmp_path), "resnet8", 100)
    assert weights_hash(loaded.state_dict()) == weights_hash(network.state_dict())


class RunsCode:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("/tmp/rrd_search_must_not_exist"),))


@pytest.mark.parametrize(
    ("architecture", "classes", "message"),
    [
        ("resnet20", 100, "expected a resnet20 with 100 classes, found a resnet8 with 100 classes"),
        ("resnet8", 10, "expected a resnet8 with 10 classes, found a resnet8 with 100 classes"),
        ("vgg8", 100, "expected a vgg8 with 100 classes, found a resnet8 with 100 classes"),
    ],
)
def test_another_network_is_recognised(
    architecture: str, classes: int, message: str, network: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_network(written("epoch", network, tmp_path), architecture, classes)


@pytest.mark.parametrize("form", ["epoch", "legacy", "safetensors"])
def test_truncated_files_are_said_to_be(form: str, network: nn.Module, tmp_path: Path) -> None:
    path = written(form, network, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"truncated|damaged") as caught:
        load_network(path, "resnet8", 100)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "teacher.pth"
    with pytest.raises(ValueError, match="no such file"):
        load_network(path, "resnet8", 100)
    for content in (b"", b"hello", pickle.dumps(RunsCode()), pickle.dumps({"model": RunsCode()})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"teacher\.pth: "):
            load_network(path, "resnet8", 100)
    torch.save({"model": RunsCode()}, path)
    with pytest.raises(ValueError, match="run code"):
        load_network(path, "resnet8", 100)
    assert not Path("/tmp/rrd_search_must_not_exist").exists()
    torch.save({"weights": 3}, path)
    with pytest.raises(ValueError, match="found a dict of weights"):
        load_network(path, "resnet8", 100)


def test_a_teacher_is_trained_once_without_held_out_images(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    places = Places(storage=tmp_path, data_root=tmp_path)
    config = TrialConfig(
        data=DataConfig(held_out=0.25), teacher=TeacherConfig(architecture="resnet8", epochs=2), loss=RRD.Config()
    )
    first = list(make_teacher(config, places, CPU))
    assert [said.epoch for said in first if isinstance(said, TeacherProgress)] == [1, 2]
    again = list(make_teacher(config.with_values({"seed": 5, "data.schedule_seed": 5}), places, CPU))
    assert again == first[-1:], "searches of any seed share it"
    teacher = first[-1]
    assert isinstance(teacher, TeacherFile)
    assert teacher.trained_here
    loaded = load_teacher(config, places, teacher.path)
    assert (loaded.weights, loaded.val_accuracy, loaded.trained_here) == (teacher.weights, teacher.val_accuracy, False)
    with pytest.raises(ValueError, match=f"its weights are {teacher.weights}, teacher.weights asks for 0123"):
        load_teacher(with_weights(config, "0123"), places, teacher.path)


def test_a_teacher_is_trained_again_where_it_is_damaged_and_from_its_checkpoint_where_it_was_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(storage=tmp_path, data_root=tmp_path)
    config = TrialConfig(
        data=DataConfig(held_out=0.25), teacher=TeacherConfig(architecture="resnet8", epochs=2), loss=RRD.Config()
    )
    *_, teacher = make_teacher(config, places, CPU)
    assert isinstance(teacher, TeacherFile)
    assert not list(teacher.path.parent.glob("*/"))
    content = bytearray(teacher.path.read_bytes())
    content[-5] ^= 1
    teacher.path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="a damaged teacher"):
        stored_teacher(with_weights(config, teacher.weights), places)
    with pytest.raises(OSError, match="a damaged teacher"):
        Materials(with_weights(config, teacher.weights), places, CPU)
    killed = make_teacher(config, places, CPU)
    assert [said.epoch for said in islice(killed, 2) if isinstance(said, TeacherProgress)] == [1, 2]
    killed.close()  # before its second checkpoint
    assert "it is trained again" in caplog.text
    progress, again = make_teacher(config, places, CPU)
    assert isinstance(progress, TeacherProgress)
    assert progress.epoch == 2
    assert again == teacher
    assert not list(teacher.path.parent.glob("*/"))

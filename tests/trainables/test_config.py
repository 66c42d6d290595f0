"""TrialConfig: checked on construction, the same after YAML, and hashed by what it says."""

import dataclasses
from pathlib import Path

import pytest

from trainables.config import KD, RRD, DataConfig, OptimizerConfig, ScheduleConfig, TeacherConfig, TrialConfig

VARIED = TrialConfig(
    data=DataConfig(name="cifar100", held_out=0.2, schedule_seed=3),
    teacher=TeacherConfig(architecture="resnet32x4", weights="0123456789abcdef"),
    student="resnet8x4",
    loss=RRD.Config(student_temperature=0.07, enqueue="before", student_projection="mlp"),
    kd_weight=0.9,
    optimizer=OptimizerConfig(nesterov=True, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="cosine", milestones=(0.5,)),
    precision="bfloat16",
)


@pytest.mark.parametrize("config", [TrialConfig(), VARIED, TrialConfig(loss=KD.Config(temperature=2.0))])
def test_yaml_and_back(config: TrialConfig, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    again = TrialConfig.from_yaml(file)
    assert again == config
    assert again.config_hash == config.config_hash


def test_the_hash_is_stable_and_tells_configs_apart() -> None:
    hashes = {TrialConfig().config_hash, VARIED.config_hash, TrialConfig(seed=1).config_hash}
    assert len(hashes) == 3
    assert TrialConfig().config_hash == TrialConfig.from_dict({}).config_hash
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashes)


def test_the_datasets_own_values() -> None:
    digits, cifar = DataConfig(name="digits"), DataConfig(name="cifar100")
    assert (digits.image_size, digits.padding, digits.flip) == (16, 2, False)
    assert (cifar.image_size, cifar.padding, cifar.flip, cifar.views) == (32, 4, True, 162)


def test_values_by_dotted_field() -> None:
    config = TrialConfig().with_values(
        {"data.name": "cifar10", "loss.queue_size": 64, "optimizer.weight_decay": "5e-3"}
    )
    assert (config.data.image_size, config.data.flip, config.data.padding) == (32, True, 4)
    assert config.loss == RRD.Config(queue_size=64)
    assert config.optimizer.weight_decay == 0.005
    assert TrialConfig().with_values({"loss.name": "kd", "loss.temperature": 3}).loss == KD.Config(temperature=3.0)
    assert TrialConfig().with_values(VARIED.flat() | {"loss.name": "rrd"}) == VARIED


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss.student_temperature": -1}, "loss.student_temperature must be a number greater than 0, got -1"),
        ({"loss.teacher_temperature": float("nan")}, "loss.teacher_temperature must be a number greater than 0"),
        ({"loss.teacher_temperature": "warm"}, "loss.teacher_temperature must be a number, got 'warm'"),
        ({"loss.queue_size": 0}, "loss.queue_size must be a whole number of 1 or more, got 0"),
        ({"loss.queue_size": 1.5}, "loss.queue_size must be a whole number, got 1.5"),
        ({"loss.enqueue": "during"}, "loss.enqueue must be one of after, before, got 'during'"),
        ({"loss.name": "magic"}, "loss.name must be one of rrd, kd"),
        ({"loss.teacher_projection": "identity"}, "loss.projection_dim must be 64"),
        ({"loss.temprature": 1}, "no field 'loss.temprature' in TrialConfig"),
        ({"student": "resnet9"}, "student must be one of resnet8, "),
        ({"teacher.architecture": None}, "teacher.architecture must be one of"),
        ({"data.name": "mnist"}, "data.name must be one of digits, cifar10, .* or folder:PATH"),
        ({"data.image_size": 24}, "data.image_size must be"),
        ({"data.held_out": 1.0}, "data.held_out must be a number from 0 to 0.9"),
        ({"data.padding": 9}, "data.padding must be at most half"),
        ({"data.flip": "no"}, "data.flip must be true or false"),
        ({"optimizer.learning_rate": 0}, "optimizer.learning_rate must be"),
        ({"optimizer.nesterov": True, "optimizer.momentum": 0}, "optimizer.nesterov must be false"),
        ({"schedule.kind": "linear"}, "schedule.kind must be one of step, cosine"),
        ({"schedule.milestones": [0.9, 0.5]}, "schedule.milestones must be ascending"),
        ({"schedule.milestones": 3}, "schedule.milestones must be a list"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
        ({"batch_size": 1}, "batch_size must be a whole number of 2 or more"),
        ({"ce_weight": 0, "loss.weight": 0}, "not all 0"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"loss": 3}, "loss must be a mapping of fields"),
    ],
)
def test_bad_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TrialConfig().with_values(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "loss: {queue_size: -3}", "a: b: c", "colour: red", "\x00"])
def test_a_bad_file_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: ") as caught:
        TrialConfig.from_yaml(file)
    assert "\n" not in str(caught.value)


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrialConfig().epochs = 3  # type: ignore[misc]

"""The registry and DataConfig: defaults, and one line for each value that is not valid."""

import pickle

import pytest

from trainables.data import DATASETS, dataset_of
from trainables.data.config import DataConfig


@pytest.mark.parametrize("name", [*DATASETS, "folder:/somewhere"])
def test_every_dataset_has_what_a_config_needs(name: str) -> None:
    dataset = dataset_of(name)
    assert dataset.name == name
    config = DataConfig(name=name)
    assert (config.image_size, config.flip) == ((16, False) if name == "digits" else (32, True))
    assert config.padding == config.image_size // 8
    assert config.views == (25 if name == "digits" else 162)
    assert pickle.loads(pickle.dumps(dataset)).name == name
    if not name.startswith("folder:"):
        assert dataset.mean is not None
        assert dataset.std is not None
        assert dataset.num_classes == {"cifar100": 100, "tiny_imagenet": 200}.get(name, 10)


@pytest.mark.parametrize("name", ["imagenet", "", "folder:", "CIFAR10", None, 3])
def test_an_unknown_name_lists_the_valid_ones(name: object) -> None:
    valid = "digits, cifar10, cifar100, stl10, tiny_imagenet or folder:PATH"
    with pytest.raises(ValueError, match=rf"^data\.name must be one of {valid}, got {name!r}$"):
        dataset_of(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"name": "cifar10", "image_size": 15}, r"data\.image_size must be from 16 to 96 pixels, got 15"),
        ({"name": "stl10", "image_size": 97}, r"data\.image_size must be from 16 to 96 pixels, got 97"),
        ({"name": "digits", "image_size": 24}, r"data\.image_size must be 16 or 32 for digits, got 24"),
        ({"name": "cifar10", "image_size": 32.0}, r"data\.image_size must be a whole number .*, got 32\.0"),
        ({"name": "cifar10", "padding": 17}, r"data\.padding must be at most half of data\.image_size, got 17"),
        ({"name": "cifar10", "padding": -1}, r"data\.padding must be a whole number of 0 or more, got -1"),
        ({"name": "cifar10", "flip": 1}, r"data\.flip must be true or false, got 1"),
        ({"held_out": 0.95}, r"data\.held_out must be a number from 0 to 0\.9, got 0\.95"),
        ({"schedule_seed": -1}, r"data\.schedule_seed must be a whole number of 0 or more, got -1"),
    ],
)
def test_a_bad_value_is_one_line(fields: dict, what: str) -> None:
    with pytest.raises(ValueError, match=f"^{what}$"):
        DataConfig(**fields)

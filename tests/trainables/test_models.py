"""Every architecture against facts and outputs of the published ones, and what the rest of the project asks of them."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables.models import MODELS, embedding_dim, shapes

VECTORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "reference" / "model_vectors.json").read_text()
)
WITH_OUTPUTS = [name for name, facts in VECTORS.items() if "logits" in facts]
SMALL = ["resnet8", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
FAMILIES = [*SMALL, "ResNet50"]
SIZES = (16, 24, 32, 48, 64, 96)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(name: str, *shape: int) -> np.ndarray:
    """A standard normal array that its name decides, as the reference vectors were made."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def reference_value(key: str, shape: list[int]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    drawn = normal(key, *shape)
    if len(shape) >= 2:
        return torch.from_numpy(drawn.astype(np.float32) * np.float32(math.sqrt(1 / math.prod(shape[1:]))))
    if key.endswith("running_var"):
        drawn = 1 + 0.1 * abs(drawn)
    else:
        drawn = 1 + 0.1 * drawn if key.endswith("weight") else 0.1 * drawn
    return torch.from_numpy(drawn.astype(np.float32))


def assert_near(got: Any, expected: Any) -> None:
    """Equal within 1e-4 of the largest magnitude."""
    got, expected = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_names_are_those_of_the_reference() -> None:
    assert set(MODELS) == set(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_state_dict_has_the_published_layout(name: str) -> None:
    with torch.device("meta"):
        network = MODELS[name](num_classes=100)
    layout = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert list(layout.items()) == list(VECTORS[name]["keys"].items())
    assert sum(parameter.numel() for parameter in network.parameters()) == VECTORS[name]["parameters"]


@pytest.mark.parametrize("name", WITH_OUTPUTS)
def test_outputs_equal_the_published_ones(name: str) -> None:
    facts = VECTORS[name]
    network = MODELS[name](num_classes=100).eval()
    network.load_state_dict({key: reference_value(key, shape) for key, shape in facts["keys"].items()})
    with torch.no_grad():
        said = network(torch.from_numpy(normal("input", 4, 3, 32, 32).astype(np.float32)), preactivations=True)
    assert said.preactivations is not None
    assert_near(said.logits, facts["logits"])
    assert_near(said.embedding.norm(dim=1), facts["penultimate_norms"])
    assert_near(said.embedding[:, :8], facts["penultimate_first8"])
    assert_near([m.double().mean() for m in (*said.maps, said.embedding)], facts["feature_means"])
    assert_near([m.double().mean() for m in (*said.preactivations, said.embedding)], facts["preact_means"])


@pytest.mark.parametrize("name", VECTORS)
def test_shapes_are_the_published_ones(name: str) -> None:
    said = shapes(name, image_size=32, num_classes=7)
    expected = [[1, *shape[1:]] for shape in VECTORS[name]["feature_shapes"]]
    assert [list(m.shape) for m in (*said.maps, said.embedding)] == expected
    assert said.preactivations is not None
    assert [m.shape for m in said.preactivations] == [m.shape for m in said.maps]
    assert said.logits.shape == (1, 7)
    assert said.logits.is_meta
    assert embedding_dim(name) == expected[-1][1]


def test_shapes_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    shapes("resnet8", 32, 10)
    shapes("vgg8", 32, 10)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_any_image_size(name: str, size: int) -> None:
    said = shapes(name, size, num_classes=5)
    at_32 = VECTORS[name]["feature_shapes"]
    for image_map, (_, channels, _, side) in zip(said.maps, at_32, strict=False):
        expected = math.ceil(size * side / 32)
        if name == "vgg8" and size >= 64 and image_map is said.maps[4]:
            expected //= 2
        assert image_map.shape == (1, channels, expected, expected)
    assert said.embedding.shape == (1, at_32[-1][1])
    assert said.logits.shape == (1, 5)


@pytest.mark.parametrize("name", SMALL)
def test_smallest_images_train(name: str) -> None:
    network = MODELS[name](num_classes=3)
    assert network(images(2, 16)).logits.isfinite().all()


@pytest.mark.parametrize("name", VECTORS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name](num_classes=7)
    nn.functional.cross_entropy(network(images(3, 24)).logits, torch.tensor([0, 3, 6])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # The bias of a convolution before a batch norm (VGG has such) makes no difference, so its gradient is 0.
        if parameter.ndim > 1 or not key.endswith("bias"):
            assert parameter.grad.any(), key


@pytest.mark.parametrize("name", SMALL)
def test_preactivations_are_the_maps_before_their_relu(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name](num_classes=3)
    said = network(images(2, 24), preactivations=True)
    assert said.preactivations is not None
    assert torch.equal(said.preactivations[0], said.maps[0])
    for before, after in zip(said.preactivations[1:], said.maps[1:], strict=True):
        if name == "MobileNetV2":
            assert torch.equal(before, after)
        elif name != "wrn_16_2":
            assert (before < 0).any()
            assert torch.equal(before.relu(), after)
    assert network(images(2, 24)).preactivations is None


@pytest.mark.parametrize("name", SMALL)
def test_asking_for_preactivations_counts_a_batch_once(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name](num_classes=3)
    network(images(2, 24), preactivations=True)
    asked = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(0)
    network = MODELS[name](num_classes=3)
    network(images(2, 24))
    for key, value in network.state_dict().items():
        assert torch.equal(value, asked[key]), key
        if key.endswith("num_batches_tracked"):
            assert value.item() == 1, key


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(MODELS[name](num_classes=3).parameters())

    first = weights(seed=1)
    assert torch.equal(weights(seed=1), first)
    assert not torch.equal(weights(seed=2), first)


@pytest.mark.parametrize("name", ["resnet32x4", "wrn_40_2", "vgg8", "MobileNetV2"])
def test_convolutions_start_with_the_published_spread(name: str) -> None:
    torch.manual_seed(0)
    for module in MODELS[name](num_classes=3).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_classifiers_start_as_published() -> None:
    torch.manual_seed(0)
    for name, key in (("vgg8", "classifier"), ("MobileNetV2", "classifier.0")):
        classifier = MODELS[name](num_classes=100).get_submodule(key)
        assert isinstance(classifier, nn.Linear)
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not classifier.bias.any()
    assert not MODELS["wrn_16_1"](num_classes=100).state_dict()["fc.bias"].any()


@pytest.mark.parametrize("name", SMALL)
def test_other_precision_and_memory_format(name: str) -> None:
    torch.manual_seed(0)
    network = MODELS[name](num_classes=10)
    network(images(8, 24))  # sets batch norm's running statistics to something
    network.eval()
    with torch.no_grad():
        plain = network(images(2, 24)).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = network(images(2, 24)).logits
        network.to(memory_format=torch.channels_last)
        last = network(images(2, 24).contiguous(memory_format=torch.channels_last)).logits
    assert low.dtype == torch.bfloat16
    assert (low.float() - plain).abs().max() < 0.05 * plain.abs().max()
    assert_near(last, plain)


class Logits(nn.Module):
    """What is exported of a student."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_export_for_any_number_of_images(name: str) -> None:
    torch.manual_seed(0)
    network = Logits(MODELS[name](num_classes=10).eval())
    dynamic = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network, (images(2, 16),), dynamic_shapes=dynamic).module()
    with torch.no_grad():
        for count in (1, 3):
            assert_near(exported(images(count, 16)), network(images(count, 16)))


@pytest.mark.parametrize("name", FAMILIES)
def test_runs_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        said = MODELS[name](num_classes=10)(torch.empty(2, 3, 32, 32))
    assert said.logits.is_meta
    assert said.logits.shape == (2, 10)


@pytest.mark.parametrize("wrong", ["resnet18", "", "wrn"])
def test_an_unknown_name_lists_the_valid_ones(wrong: str) -> None:
    expected = f"the model must be one of {', '.join(MODELS)}, got {wrong!r}"
    for call in (lambda: embedding_dim(wrong), lambda: shapes(wrong, 32, 10)):
        with pytest.raises(ValueError, match="the model must be one of") as error:
            call()
        assert str(error.value) == expected

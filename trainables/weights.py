"""Weights of a network in files: .safetensors, and the three published forms of .pth, read without running code."""

import argparse
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from trainables.models import MODELS
from trainables.models.network import Network
from trainables.whole_file import write_whole

Weights = dict[str, Tensor]
CHECKSUM = "sha256"  # of a .safetensors file's weights, in its metadata


def read_weights(path: Path) -> Weights:
    """The state dict in a ``.safetensors`` file, or in a ``.pth`` file: bare, or as ``model`` inside a dict, beside
    which an argparse Namespace may lie. ValueError where the file is missing, truncated, or holds something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a .pth or .safetensors checkpoint")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or holds objects that would have to run code to be loaded"
        raise ValueError(f"{path}: not read as a checkpoint of plain tensors: {reason}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: truncated or damaged, or no checkpoint at all ({_short(error)})") from error
    inner = held.get("model", held) if isinstance(held, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        found = f"a dict of {', '.join(map(str, list(held)[:6]))}" if isinstance(held, Mapping) else type(held).__name__
        raise ValueError(f"{path}: expected a state dict, or one under 'model'; found {found}")
    return {name.removeprefix("module."): tensor for name, tensor in inner.items()}


def load_network(path: Path, architecture: str, num_classes: int) -> Network:
    """The network with the weights of the file. ValueError says what was expected and what was found."""
    weights = read_weights(path)
    network = MODELS[architecture](num_classes=num_classes)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # not in files of the first years
    if {**found, **dict.fromkeys(counters, ())} != expected:
        told = f"expected a {architecture} with {num_classes} classes"
        raise ValueError(f"{path}: {told}, found {_recognised(found) or _difference(expected, found)}")
    network.load_state_dict(weights, strict=False)
    return network


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a .safetensors file with a checksum, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_whole(path, safetensors.torch.save(plain, metadata={CHECKSUM: _sha256(plain)}))


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits of names, types, shapes and bytes; the same whatever file they came from."""
    return _sha256({name: weights[name] for name in weights if not name.endswith("num_batches_tracked")})[:16]


def _sha256(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(path: Path) -> Weights:
    """ValueError where the file says what its checksum should be, and it is another."""
    with safetensors.safe_open(path, framework="pt") as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
        weights: Weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if expected is not None and _sha256(weights) != expected:
        raise ValueError("its checksum is wrong")
    return weights


def _recognised(found: dict[str, tuple[int, ...]]) -> str | None:
    """The architecture and class count that have exactly these entries, in words."""
    stored = {name: shape for name, shape in found.items() if not name.endswith("num_batches_tracked")}
    classes = [shape[0] for shape in stored.values() if len(shape) == 2]  # only the classifier is a matrix
    for name, build in MODELS.items():
        with torch.device("meta"):
            state = build(num_classes=classes[0] if classes else 1).state_dict()
        shapes = {key: tuple(v.shape) for key, v in state.items() if not key.endswith("num_batches_tracked")}
        if shapes == stored:
            return f"a {name} with {classes[0]} classes"
    return None


def _difference(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shaped = [n for n in expected.keys() & found.keys() if expected[n] != found[n]]
    said = [f"{len(found)} entries"]
    if missing:
        said.append(f"{len(missing)} missing ({missing[0]}, ...)")
    if unknown:
        said.append(f"{len(unknown)} unknown ({unknown[0]}, ...)")
    if shaped:
        said.append(f"{len(shaped)} of another shape ({shaped[0]}: {found[shaped[0]]}, not {expected[shaped[0]]})")
    return ", ".join(said)


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

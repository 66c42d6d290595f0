"""TrialConfig: everything that changes the result of a trial, checked on construction, as YAML and as a hash.

Re-exports the components' own configs, so that a search space needs this module only.
"""

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from trainables import checks
from trainables.data.config import DataConfig
from trainables.losses import LOSSES
from trainables.losses.kd import KD
from trainables.losses.rrd import RRD
from trainables.models import MODELS, embedding_dim

__all__ = ["KD", "RRD", "DataConfig", "OptimizerConfig", "ScheduleConfig", "TeacherConfig", "TrialConfig"]

LossConfig = RRD.Config | KD.Config
PRECISIONS = ("float32", "bfloat16")
TABLE_PRECISIONS = ("float16", "float32")
GENTLY_TRAINED = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


def usual_learning_rate(architecture: str) -> float:
    """In the RepDistiller line of papers, for batches of 64."""
    return 0.01 if architecture in GENTLY_TRAINED else 0.05


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen network. ``weights`` is the hash of its weights; while it is None, a teacher is trained on the
    trial's training images, without the held-out ones, for ``epochs`` from ``seed``, with cross-entropy alone.

    ``table_precision`` is that of its embeddings in the teacher's table: float16 changes RRD's gradient by less than
    5e-4 of it, float32 by nothing, at twice the size.
    """

    architecture: str = "resnet20"
    weights: str | None = None
    epochs: int = 240
    seed: int = 0
    table_precision: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        checks.one_of("teacher.architecture", self.architecture, MODELS)
        checks.at_least("teacher.epochs", self.epochs, 1)
        checks.at_least("teacher.seed", self.seed, 0)
        checks.one_of("teacher.table_precision", self.table_precision, TABLE_PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent; defaults as in the RepDistiller line of papers for most students, batches of 64."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.positive("optimizer.learning_rate", self.learning_rate)
        checks.within("optimizer.momentum", self.momentum, 0, 0.9999)
        checks.truth("optimizer.nesterov", self.nesterov)
        rule = "false where optimizer.momentum is 0"
        checks.require(self.momentum > 0 or not self.nesterov, "optimizer.nesterov", rule, self.nesterov)
        checks.not_negative("optimizer.weight_decay", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the epochs. ``step`` multiplies it by ``factor`` after each milestone, a fraction of the
    epochs (the papers' 150, 180, 210 of 240); ``cosine`` takes it to 0 along half a wave; one value an epoch."""

    kind: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    factor: float = 0.1

    def __post_init__(self) -> None:
        checks.one_of("schedule.kind", self.kind, ("step", "cosine"))
        ascending = all(0 < m < 1 for m in self.milestones) and list(self.milestones) == sorted(set(self.milestones))
        checks.require(ascending, "schedule.milestones", "ascending fractions between 0 and 1", self.milestones)
        checks.within("schedule.factor", self.factor, 1e-6, 1)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One experiment, on one worker or many.

    The trained loss is ``ce_weight`` * cross-entropy + ``kd_weight`` * KD at ``kd_temperature`` + ``loss.weight`` *
    the loss; a part of weight 0 is left out. ``batch_size`` is that of all workers together, ``seed`` draws the
    student's weights, ``data.schedule_seed`` the order and the views of the images.
    """

    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: str = "resnet8"
    loss: LossConfig = field(default_factory=RRD.Config)
    ce_weight: float = 1.0
    kd_weight: float = 0.0
    kd_temperature: float = 4.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch_size: int = 64
    epochs: int = 240
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("student", self.student, MODELS)
        checks.not_negative("ce_weight", self.ce_weight)
        checks.not_negative("kd_weight", self.kd_weight)
        checks.positive("kd_temperature", self.kd_temperature)
        weights = (self.ce_weight, self.kd_weight, self.loss.weight)
        checks.require(any(weights), "ce_weight, kd_weight and loss.weight", "not all 0", weights)
        checks.at_least("batch_size", self.batch_size, 2)
        checks.at_least("epochs", self.epochs, 1)
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.at_least("seed", self.seed, 0)
        if self.loss.weight:
            self.loss.check_dims(embedding_dim(self.student), embedding_dim(self.teacher.architecture))

    @property
    def needs_teacher(self) -> bool:
        return self.loss.weight > 0 or self.kd_weight > 0

    @property
    def config_hash(self) -> str:
        """Sixteen hexadecimal digits, the same for equal configs in every process and release with these fields."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; the loss carries its name."""
        plain = dataclasses.asdict(self)
        plain["loss"] = {"name": self.loss.name, **plain["loss"]}
        plain["schedule"]["milestones"] = list(self.schedule.milestones)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TrialConfig":
        """The inverse of ``to_dict``; missing fields take their defaults. ValueError for unknown or ill-typed ones."""
        return _build(cls, plain, "")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, source: Path) -> "TrialConfig":
        """Read a config file. ValueError with the file's name for anything that is wrong with it."""
        try:
            return cls.from_dict(yaml.safe_load(source.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{source}: {' '.join(str(error).split())}") from error

    def with_values(self, values: dict[str, Any]) -> "TrialConfig":
        """A copy with other values for dotted fields, all set at once: ``{"loss.student_temperature": 0.07}``.

        Another ``data.name`` brings that dataset's own image size, padding and flip, another ``loss.name`` that loss's
        defaults, and another ``student`` the papers' learning rate for it where the old one had theirs; where these are
        not set as well.
        """
        plain = self.to_dict()
        if self.optimizer.learning_rate == usual_learning_rate(self.student):
            plain["optimizer"]["learning_rate"] = usual_learning_rate(values.get("student", self.student))
        if values.get("data.name", self.data.name) != self.data.name:
            plain["data"] |= {"image_size": None, "padding": None, "flip": None}
        if (loss := values.get("loss.name", self.loss.name)) != self.loss.name:
            checks.one_of("loss.name", loss, LOSSES)
            config: Any = LOSSES[loss]
            plain["loss"] = {"name": loss, **dataclasses.asdict(config.Config(weight=self.loss.weight))}
        for name, value in values.items():
            *parents, last = name.split(".")
            node: Any = plain
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or last not in node:
                raise ValueError(f"no field {name!r} in TrialConfig; fields are {', '.join(self.flat())}")
            node[last] = value
        return TrialConfig.from_dict(plain)

    def flat(self) -> dict[str, Any]:
        """The plain values by dotted field."""
        return _flatten(self.to_dict())


def _flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _build(kind: Any, plain: Any, place: str) -> Any:
    """A dataclass of this kind from a dictionary, its fields converted to their declared types."""
    if not isinstance(plain, dict):
        raise ValueError(f"{place.rstrip('.') or 'a trial config'} must be a mapping of fields, got {plain!r}")
    hints = typing.get_type_hints(kind, include_extras=False)
    names = [f.name for f in dataclasses.fields(kind)]
    for name in plain:
        if name not in names:
            raise ValueError(f"no field {place + str(name)!r} in TrialConfig; fields there are {', '.join(names)}")
    return kind(**{name: _convert(hints[name], value, place + name) for name, value in plain.items()})


def _convert(hint: Any, value: Any, place: str) -> Any:
    if place == "loss":
        return _loss(value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, place + ".")
    if typing.get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if hint is float:
        return _number(value, place)
    if typing.get_origin(hint) is tuple:
        checks.require(isinstance(value, (list, tuple)), place, "a list of numbers", value)
        return tuple(_convert(float, one, place) for one in value)
    if typing.get_origin(hint) is Literal or value is None:
        return value  # checked by the dataclass itself
    checks.require(type(value) is hint, place, _TYPE_NAMES[hint], value)
    return value


def _number(value: Any, place: str) -> float:
    """YAML 1.1 takes 5e-4, without a point, for text."""
    try:
        checks.require(isinstance(value, (int, float, str)) and not isinstance(value, bool), place, "a number", value)
        return float(value)
    except ValueError:
        raise ValueError(f"{place} must be a number, got {value!r}") from None


_TYPE_NAMES = {int: "a whole number", str: "text", bool: "true or false"}


def _loss(value: Any) -> LossConfig:
    checks.require(isinstance(value, dict), "loss", "a mapping of fields", value)
    fields = dict(value)
    name = fields.pop("name", "rrd")
    checks.one_of("loss.name", name, LOSSES)
    kind: Any = LOSSES[name]
    return _build(kind.Config, fields, "loss.")

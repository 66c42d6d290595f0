"""Space: a search space, from ``search_spaces`` or a file, with the values that a user set and pinned in it.

``load_space`` reads one, ``Space.config_of`` makes a trial's config; ``space_check``
finds mistakes before any worker starts.
"""

import ast
import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import optuna

import search_spaces
from rrd_search.quiet import quiet_optuna
from trainables.config import TrialConfig

SpaceFunction = Callable[[optuna.Trial, TrialConfig], TrialConfig]
Points = dict[str, dict[str, Any]]


class InvalidCombination(ValueError):
    """These values do not go together; others of the same space may."""


class BadSuggestion(Exception):
    """Optuna refused a suggestion: its range is empty, or its choices differ from those of an earlier trial."""


class SpaceTrial:
    """The trial that a space's function sees. It says a pinned value, unrecorded, where a pinned field is suggested.

    ``choose(name, distribution, sampled)``, where given, replaces what the sampler said. ``values`` and ``held`` hold
    what was suggested and which pinned fields were asked for.
    """

    def __init__(
        self,
        trial: optuna.trial.BaseTrial,
        pinned: dict[str, Any],
        choose: Callable[[str, optuna.distributions.BaseDistribution, Any], Any] | None = None,
    ) -> None:
        self._trial = trial
        self._pinned = pinned
        self._choose = choose
        self.values: dict[str, Any] = {}
        self.held: list[str] = []

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._trial, attribute)
        if not attribute.startswith("suggest_"):
            return found

        def suggest(name: str, *arguments: Any, **options: Any) -> Any:
            if name in self._pinned:
                self.held.append(name)
                return self._pinned[name]
            try:
                with quiet_optuna():
                    value = found(name, *arguments, **options)
            except (ValueError, TypeError) as error:
                raise BadSuggestion(f"{name}: {error}") from error
            if self._choose is not None:
                value = self._choose(name, self._trial.distributions[name], value)
            self.values[name] = value
            return value

        return suggest


@dataclass(frozen=True)
class SpaceFacts:
    """What ``space_check.check`` found out."""

    searched: tuple[str, ...]  # suggested in any sample, in the order of the function
    pinned: tuple[str, ...]  # would be searched, were they not pinned
    start: Points  # the START points with a value for each field that they search
    references: dict[str, TrialConfig]
    left_out: dict[str, str]  # START points and references that do not go with the pinned values, and why
    description: dict[str, Any]  # plain: the base by dotted field, and the distributions of the searched fields


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space: ``function`` makes a config of a trial's suggestions and ``base``.

    ``start``: points by dotted field, tried first. ``references``: values applied on the base, run beside the search.
    ``trials``: how many, where the user does not say. ``pinned``: values that win over whatever the space says.
    """

    name: str
    function: SpaceFunction
    base: TrialConfig
    start: Points = field(default_factory=dict)
    references: Points = field(default_factory=dict)
    trials: int = 50
    pinned: dict[str, Any] = field(default_factory=dict)

    def with_values(self, values: dict[str, Any]) -> "Space":
        """The space with other values in its base; searched fields among them are pinned. ValueError for bad ones."""
        base = self.base.with_values(values)
        now = base.flat()
        pinned = {name: now[name] for name in (*self.pinned, *values) if name in now}
        return dataclasses.replace(self, base=base, pinned=pinned)

    def config_of(self, trial: optuna.trial.BaseTrial | SpaceTrial) -> TrialConfig:
        """The config of a trial. InvalidCombination where values do not go together, ValueError with file and line
        where the function is wrong."""
        seen = trial if isinstance(trial, SpaceTrial) else SpaceTrial(trial, self.pinned)
        try:
            config = self.function(cast(optuna.Trial, seen), self.base)
        except ValueError as error:
            raise InvalidCombination(f"{one_line(error)} ({self._place(error)})") from error
        except Exception as error:
            kind = "" if isinstance(error, BadSuggestion) else f"{type(error).__name__}: "
            raise ValueError(f"space {self.name}: {kind}{one_line(error)} ({self._place(error)})") from error
        if not isinstance(config, TrialConfig):
            got = type(config).__name__
            raise ValueError(f"space {self.name} must return a TrialConfig, returned {got} ({self._place()})")
        try:
            return config.with_values(self.pinned) if self.pinned else config
        except ValueError as error:
            raise InvalidCombination(one_line(error)) from error

    def _place(self, error: BaseException | None = None) -> str:
        code = getattr(self.function, "__code__", None)
        if error is None:
            return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(self.function)
        return place_of(error, code.co_filename if code else "")


def space_names() -> list[str]:
    """The spaces that come with the project."""
    return sorted(module.name for module in pkgutil.iter_modules(search_spaces.__path__))


def load_space(name: str) -> Space:
    """The space of a name in ``search_spaces``, or of a path to a ``.py`` file. ValueError, one line, where there is
    none, where it cannot be imported, or where a part is missing or of a wrong kind, with file and line."""
    file = Path(name) if name.endswith(".py") else Path(search_spaces.__path__[0]) / f"{name}.py"
    if not file.is_file() or not (name.endswith(".py") or name in space_names()):
        known = ", ".join(space_names())
        raise ValueError(f"no search space {name!r}; there are {known}, or give the path of a .py file")
    try:
        module = _module_at(file) if name.endswith(".py") else importlib.import_module(f"search_spaces.{name}")
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"space {name}: {kind}: {one_line(error)} ({place_of(error, str(file))})") from error
    return _space_in(module, file)


def _module_at(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"search_space_{file.stem}", file)
    assert spec is not None, f"{file} is a .py file"
    assert spec.loader is not None, f"{file} is a .py file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _space_in(module: ModuleType, file: Path) -> Space:
    parts = vars(module)

    def require(valid: bool, name: str, rule: str) -> None:
        if not valid:
            got = f"got {parts[name]!r}" if name in parts else "it is missing"
            raise ValueError(f"space {file.stem}: {name} must be {rule}, {got} ({file}:{_line_of(name, file)})")

    require(isinstance(parts.get("BASE"), TrialConfig), "BASE", "a TrialConfig")
    require(callable(parts.get("space")), "space", "a function of a trial and the base")
    for name in ("START", "REFERENCES"):
        points = parts.get(name, {})
        valid = isinstance(points, dict) and all(
            isinstance(label, str) and isinstance(values, dict) and all(isinstance(one, str) for one in values)
            for label, values in points.items()
        )
        require(valid, name, "a dictionary of points, each a dictionary of values by dotted field")
    trials = parts.get("TRIALS", 50)
    require(type(trials) is int and trials >= 1, "TRIALS", "a whole number of 1 or more")
    return Space(
        name=file.stem,
        function=parts["space"],
        base=parts["BASE"],
        start=parts.get("START", {}),
        references=parts.get("REFERENCES", {}),
        trials=trials,
    )


def _line_of(name: str, file: Path) -> int:
    """Where a module's file gives a name its value; 1 where it does not."""
    for node in ast.parse(file.read_text()).body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.lineno
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node.lineno
    return 1


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def place_of(error: BaseException, file: str) -> str:
    """``file:line`` of the innermost frame in a file, or of the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    last = (own or list(frames))[-1]
    return f"{last.filename}:{last.lineno}"

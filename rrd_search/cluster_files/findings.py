"""How a problem is told: its place as a dotted path, the nearest valid name, and what a JSON schema has against a
document."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jsonschema

MANY = 12  # names; of a longer list only the nearest is told
TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}
QUANTITY = "^(\\+|-)?(("  # how Kubernetes' pattern of an amount begins
LONG = 60  # characters of a value that are shown


def place_of(parts: Iterable[str | int], within: str = "") -> str:
    """``available_node_types.head.node_config.BlockDeviceMappings[0]``"""
    path = within
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Empty where no name is alike."""
    alike = {known.lower(): known for known in names}
    found = difflib.get_close_matches(str(name).lower(), alike, n=1)
    return f"did you mean {alike[found[0]]}?" if found else ""


def nearest(name: object, names: Iterable[str], told: str = "names") -> str:
    """'did you mean X?', or all names where they are few, or the nearest of them."""
    names = sorted(names)
    if alike := did_you_mean(name, names):
        return alike
    if len(names) > MANY:
        names = sorted(names, key=lambda known: -difflib.SequenceMatcher(None, known, str(name)).ratio())[:3]
        told = f"the nearest {told}"
    return f"{told} are {', '.join(names)}" if names else ""


def unknown(place: str, name: object, names: Iterable[str], what: str = "field") -> str:
    where = f"{place}.{name}" if place else str(name)
    return with_hint(f"{where}: no such {what}", nearest(name, names, told=f"{what}s"))


def with_hint(told: str, hint: str) -> str:
    return f"{told}; {hint}" if hint else told


def shown(value: object) -> str:
    told = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return told if len(told) <= LONG else f"{told[:LONG]}..."


def strings_of(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, with its place."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from strings_of(part, place_of([str(name)], place))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from strings_of(part, place_of([index], place))
    elif isinstance(value, str):
        yield place, value


def schema_problems(document: object, schema: dict[str, Any], within: str = "") -> list[str]:
    """All of them, in the order of their places."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(document)
    told = [(list(map(str, error.absolute_path)), text) for error in errors for text in _told(error, within)]
    return [text for _, text in sorted(told)]


def _told(error: jsonschema.ValidationError, within: str) -> Iterator[str]:
    place = place_of(error.absolute_path, within)
    here = place or "the file"
    match error.validator:
        case "additionalProperties":
            known = error.schema.get("properties", {})
            yield from (unknown(place, name, known) for name in error.instance if name not in known)
        case "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            yield from (f"{place_of([name], place)} is missing" for name in missing)
        case "type":
            kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
            yield f"{here} must be {' or '.join(TYPES[kind] for kind in kinds)}, got {shown(error.instance)}"
        case "enum":
            yield f"{here}: {one_of(error.instance, error.validator_value)}"
        case "pattern" if str(error.validator_value).startswith(QUANTITY):
            yield f"{here} must be an amount such as 500m, 4 or 16Gi, got {shown(error.instance)}"
        case _:
            yield f"{here}: {error.message[: 4 * LONG]}"


def one_of(value: object, values: Sequence[str]) -> str:
    """What to say of a value that is none of ``values``."""
    if len(values) > MANY:
        return with_hint(f"no such value: {shown(value)}", nearest(value, values, told="values"))
    return with_hint(f"must be one of {', '.join(values)}, got {shown(value)}", did_you_mean(value, values))

"""The rules that config fields obey. Each takes the field's dotted name and raises a ValueError that names the field,
the rule and the value."""

import math
from collections.abc import Iterable
from typing import Any


def require(valid: bool, field: str, rule: str, value: Any) -> None:
    """Raise ``ValueError("<field> must be <rule>, got <value>")`` unless ``valid``."""
    if not valid:
        raise ValueError(f"{field} must be {rule}, got {value!r}")


def positive(field: str, value: float) -> None:
    require(_is_number(value) and value > 0, field, "a number greater than 0", value)


def not_negative(field: str, value: float) -> None:
    require(_is_number(value) and value >= 0, field, "a number of 0 or more", value)


def at_least(field: str, value: int, least: int) -> None:
    require(_is_whole(value) and value >= least, field, f"a whole number of {least} or more", value)


def within(field: str, value: float, low: float, high: float) -> None:
    require(_is_number(value) and low <= value <= high, field, f"a number from {low:g} to {high:g}", value)


def truth(field: str, value: bool) -> None:
    require(isinstance(value, bool), field, "true or false", value)


def one_of(field: str, value: str, valid: Iterable[str]) -> None:
    names = list(valid)
    require(value in names, field, "one of " + ", ".join(names), value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

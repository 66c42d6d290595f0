"""The names under which a study's file keeps what Optuna has no place for, and how trials get their ids."""

import re

REFERENCE_PREFIX = "ref-"

# Attributes of a trial in Optuna's study. One that is proposed has "config"; these are none of the search as it is now:
EARLIER = "earlier"  # it is no point of the space any more: how it ended, and why it is none
HISTORY = "history"  # another search ran it; it only guides the sampler: where it comes from, and its config
CURVE = "curve"  # the objective by epoch, of one that was copied; Optuna then has the last epoch only

# Attributes of a study:
SPACE = "space"  # the description of its space; the last that is set, so that the study is whole
EARLIER_REFERENCES = "earlier_references"  # those of earlier spaces, by id, and why
WARM_START = "warm_start"  # which other search's trials are its history

LEFT = "left when the search's space was changed"  # why a trial that ran then has failed


def searched_id(number: int) -> str:
    return f"{number:05d}"


def reference_id(name: str) -> str:
    return REFERENCE_PREFIX + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def references_of(search: str) -> str:
    """The name of Optuna's study of the references."""
    return f"{search}-references"


def generation(search: str, number: int) -> str:
    """The name of Optuna's study of the search's first, second, ... space."""
    return search if number == 1 else f"{search}@{number}"


def latest_generation(search: str, whole: set[str]) -> int:
    """The number of the present one, of the studies that are whole; 1 where none is yet."""
    return max((number for number in range(1, len(whole) + 1) if generation(search, number) in whole), default=1)

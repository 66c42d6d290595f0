"""The names under which a study's file keeps what Optuna has no place for, and how trials get their ids."""

import re
from collections.abc import Collection, Iterable

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


def check_owner(search: str, studies: Collection[str]) -> None:
    """ValueError where these, all that are in a file, are another search's: its folder was copied or renamed."""
    if studies and search not in studies and references_of(search) not in studies:
        owner = min(studies, key=len).removesuffix(references_of(""))
        raise ValueError(f"the folder {search} holds the search {owner}: its name must be {owner}")


def latest_generation(search: str, whole: Iterable[str]) -> str:
    """The name of Optuna's study of the search's present space, of the studies that are whole: its first space's study
    is called as the search, others ``search@2``, ``search@3``, ..."""
    return max(_generations(search, whole), default=(1, search))[1]


def next_generation(search: str, known: Iterable[str]) -> str:
    """The name of the study of one more space; ``known`` are all studies."""
    return f"{search}@{max(_generations(search, known), default=(1, search))[0] + 1}"


def _generations(search: str, known: Iterable[str]) -> list[tuple[int, str]]:
    later = [name for name in known if name.startswith(f"{search}@")]
    return [(int(name.rpartition("@")[2]), name) for name in later]

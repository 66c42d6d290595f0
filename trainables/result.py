"""What a finished trial leaves in its folder: ``result.json``, its metrics and their checksum."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.checkpoint import FILES as CHECKPOINT_FILES
from trainables.checkpoint import Checkpoints
from trainables.config import TrialConfig
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.ranks import own_rank
from trainables.whole_file import write_whole

RESULT = "result.json"
STUDENTS = ("student.safetensors", "best_student.safetensors")  # of the last epoch, and of the best
FILES = (*STUDENTS, "config.yaml", RESULT)  # in the order in which they come; the last one makes the trial finished
Report = dict[str, Any]
log = logging.getLogger(__name__)


def write_result(folder: Path, config: TrialConfig, curve: list[dict[str, float]], summary: dict[str, float]) -> None:
    """Once it is there, the trial is finished."""
    result = {"config_hash": config.config_hash, "curve": curve, "summary": summary}
    write_whole(folder / RESULT, json.dumps({**result, "sha256": _digest(result)}).encode())


def settle(folder: Path, mirror: Mirror, files: Sequence[str] = FILES) -> None:
    """After ``write_result``: put the trial's ``files`` in the mirror too; no checkpoint is needed any more."""
    for name in files:
        mirror.push(folder / name)
    Checkpoints(folder, mirror).delete()


def forget_copies(folder: Path, mirror: Mirror) -> None:
    """Of a trial that is over, and whose files are in the mirror or not needed any more: this node's disk is for
    others."""
    if mirror.exists:
        for pattern in (CHECKPOINT_FILES, *STUDENTS):
            for file in folder.glob(pattern):
                file.unlink(missing_ok=True)


def finished_report(folder: Path) -> Report | None:
    """The report of a trial that ``finish`` ended, with its whole curve; None while it is not finished. ``ValueError``
    where the file is damaged."""
    return None if (result := _read_result(folder)) is None else _report_of(result)


def earlier_report(folder: Path, config: TrialConfig, places: Places) -> Report | None:
    """As ``finished_report``, of a process that ended before it was heard, perhaps before its files were in the mirror.
    A result that is damaged, of another config under the same id, or without its students is deleted, and the trial
    runs again."""
    path, mirror = folder / RESULT, Mirror(places)
    there = mirror.pull(path)
    try:
        result = _read_result(folder)
    except ValueError as damage:
        log.warning("%s: the trial runs again", damage)
    else:
        if result is None:
            return None
        lost = [name for name in STUDENTS if not (there or (folder / name).is_file())]
        if result["config_hash"] == config.config_hash and not lost:
            if not there or own_rank() == 0:  # whoever's machine has it puts it where other machines find it
                settle(folder, mirror, () if there else FILES)
            return _report_of(result)
        told = f"without {lost[0]}" if lost else f"of config {result['config_hash']}"
        log.warning("%s is %s: the trial runs", path, told)
    path.unlink(missing_ok=True)
    return None


def _report_of(result: dict[str, Any]) -> Report:
    return {**result["curve"][-1], "summary": result["summary"], "curve": result["curve"]}


def _read_result(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        digest = result.pop("sha256")
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if digest != _digest(result):
        raise ValueError(f"{path} is damaged: its checksum is wrong")
    return result


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()

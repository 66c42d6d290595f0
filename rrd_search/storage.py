"""--storage: a folder, or a URI with a folder of this machine's in front of it; and who drives a search there.

SQLite is not safe on a network's file system, so a folder on one is taken as a URI too.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rrd_search.network_folder import on_network
from rrd_search.study_snapshot import SNAPSHOT, read_snapshot
from trainables.mirror import SCHEME, Mirror, open_store
from trainables.places import Places
from trainables.result import FILES
from trainables.whole_file import write_whole

HOLDER = "driver.json"  # beside a search at a URI: the machine that drives it, or did so last
BEAT_SECONDS = 20.0
DEAD_SECONDS = 90.0  # without a beat, after which the driver counts as gone
LOOK_SECONDS = 5.0  # between two looks at the beat of another one
CLAIM_SECONDS = 2.0  # in which a claim is seen by others that look
TAKEN_OVER = 1  # exit code


def places_of(storage: str, data_root: Path = Path("data"), table_gb: float = 20.0) -> Places:
    """ValueError for a URI that is none of pyarrow's, or does not answer."""
    data_root = data_root.absolute()
    if re.match(r"[a-z][a-z0-9]+:/", storage) and not SCHEME.match(storage):
        scheme, _, rest = storage.partition(":")
        raise ValueError(f"--storage {storage}: a URI has two slashes: {scheme}://{rest.lstrip('/')}")
    if not SCHEME.match(storage):
        folder = Path(storage).absolute()
        if not on_network(folder):
            return Places(storage=folder, data_root=data_root, table_gb=table_gb)
        storage = folder.as_uri()
    try:
        open_store(storage)
    except OSError as error:
        raise ValueError(f"--storage {storage} does not answer: {str(error).splitlines()[0]}") from error
    own = cache() / hashlib.sha256(storage.partition("?")[0].encode()).hexdigest()[:16]
    return Places(storage=own, data_root=data_root, table_gb=table_gb, remote=storage)


def cache() -> Path:
    """This user's folder on this machine's own disk for what can be fetched or made again. ValueError where somebody
    else has made it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rrd_search"
    if on_network(folder):
        folder = Path(tempfile.gettempdir()) / f"rrd_search-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ValueError(
                f"{folder} belongs to another user; XDG_CACHE_HOME may name another folder of this machine"
            )
    return folder


def bring(places: Places, name: str) -> None:
    """Fetch what is known of the search from the URI, if there is one. A study that another machine has gone on with
    takes the place of the one that is here."""
    mirror, folder = Mirror(places), places.storage / name
    if not mirror.exists:
        return
    for file in ("search.yaml", SNAPSHOT, HOLDER):
        mirror.pull(folder / file)
    for pattern in FILES:
        mirror.pull_tree(folder / "trials", pattern)
    mirror.pull_tree(places.storage / "teachers", "*.safetensors")
    if holder_of(folder).get("machine") != _this_machine():
        # What MLflow was told from here is not all that it was told.
        for old in [*folder.glob("study.db*"), *folder.glob("record.*")]:
            old.unlink()
        if (content := read_snapshot(folder / SNAPSHOT)) is not None:
            write_whole(folder / "study.db", content)


@contextmanager
def held_there(places: Places, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the drivers of other machines off the search. ValueError names the one that has it; one that died is waited
    out. A store has no locks: of two that begin at once the later word counts, and who finds another's word in place of
    its own ends at once, before anything that it thinks to be true is written there."""
    mirror, holder = Mirror(places), places.storage / name / HOLDER
    if not mirror.exists:
        yield
        return
    _wait_out(mirror, holder, name, say)
    bring(places, name)
    claim = {"machine": _this_machine(), "host": os.uname().nodename, "pid": os.getpid(), "claim": uuid.uuid4().hex}
    _tell(mirror, holder, claim, time.time())
    time.sleep(CLAIM_SECONDS)
    if (other := _other(mirror, holder, claim)) is not None:
        raise ValueError(f"{name} was begun at the same moment by process {other['pid']} on {other['host']}")
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(mirror, holder, claim, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            if _other(mirror, holder, claim) is None:
                _tell(mirror, holder, claim, 0.0)


def _wait_out(mirror: Mirror, holder: Path, name: str, say: Callable[[str], None]) -> None:
    """Until the driver of another machine that has not said goodbye is surely dead; ValueError where it is alive."""
    mirror.pull(holder)
    known = holder_of(holder.parent)
    if known.get("machine") in (None, _this_machine()):
        return
    who = f"process {known['pid']} on {known['host']}"
    seconds = DEAD_SECONDS - (time.time() - known["beat"])
    if seconds > 0:
        say(f"{who} ran {name} last, and has not ended it: waiting up to {seconds:.0f} s for its next sign of life ...")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        mirror.pull(holder)
        if (now := holder_of(holder.parent)) != known:
            if now["beat"] == 0:
                return  # it has ended
            raise ValueError(f"{name} is being run by process {now['pid']} on {now['host']}")


def _beat(mirror: Mirror, holder: Path, claim: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # the next one may arrive
            if (other := _other(mirror, holder, claim)) is not None:
                who = f"process {other['pid']} on {other['host']}"
                print(f"error: this machine was not heard of for long, and {who} has taken over", file=sys.stderr)
                os._exit(TAKEN_OVER)
            _tell(mirror, holder, claim, time.time())


def _other(mirror: Mirror, holder: Path, claim: dict[str, Any]) -> dict[str, Any] | None:
    """Whose word is there, where it is not this process's."""
    mirror.pull(holder)
    known = holder_of(holder.parent)
    return known if known.get("claim") != claim["claim"] else None


def _tell(mirror: Mirror, holder: Path, claim: dict[str, Any], beat: float) -> None:
    write_whole(holder, json.dumps({**claim, "beat": beat}).encode())
    mirror.push(holder)


def holder_of(folder: Path) -> dict:
    """Who drives the search there, or did so last; empty where nobody has."""
    file = folder / HOLDER
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _this_machine() -> str:
    """A name that no other machine has, and that is lost with its disk."""
    file = cache() / "machine"
    if not file.is_file():
        write_whole(file, uuid.uuid4().hex.encode())
    return file.read_text()

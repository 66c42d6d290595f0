"""A search's storage for those who only look at it: its files, their sizes, and who drives it; in a folder, or at a
URI, of which a copy is made in a folder that goes afterwards. Nothing is written or locked there."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

Files = Callable[[str], Iterator[tuple[PurePath, int]]]  # of a folder of the storage: path in it, bytes on the disk


@dataclass(frozen=True, kw_only=True)
class Stored:
    """``folder`` holds the search's files, ``place`` is where they come from. ``alive``, whether a driver runs it, is
    None where that cannot be seen from here; ``driver`` tells it."""

    folder: Path
    place: str
    files: Files
    alive: bool | None
    driver: str


def in_folder(storage: Path, name: str) -> Stored:
    folder = storage / name
    try:
        written = (folder / "driver.pid").read_text()
    except FileNotFoundError:
        written = ""
    pid, _, host = written.strip().partition(" on ")
    alive: bool | None = None
    if not (pid.isdigit() and host):
        alive, driver = False, "no driver runs it"
    elif host != os.uname().nodename:
        driver = f"last run by process {pid} on {host}, which cannot be seen from here"
    elif alive := _holds(int(pid), folder / "driver.lock"):
        driver = f"run by process {pid} on this machine"
    else:
        driver = f"no driver runs it; the last was process {pid}"

    def files(sub: str) -> Iterator[tuple[PurePath, int]]:
        return _sizes(storage / sub)

    return Stored(folder=folder, place=str(storage), files=files, alive=alive, driver=driver)


@contextmanager
def at_uri(uri: str, name: str) -> Iterator[Stored]:
    """ValueError for a URI that is none, or does not answer."""
    from pyarrow import fs  # these take their time to import

    from rrd_search.storage import HOLDER
    from rrd_search.study_snapshot import SNAPSHOT, read_snapshot
    from trainables.mirror import Mirror, open_store
    from trainables.places import Places

    try:
        store, root = open_store(uri)
    except OSError as error:
        raise ValueError(f"{uri} does not answer: {str(error).splitlines()[0]}") from error

    def files(sub: str) -> Iterator[tuple[PurePath, int]]:
        top = f"{root}/{sub}"
        for found in store.get_file_info(fs.FileSelector(top, allow_not_found=True, recursive=True)):
            if found.type == fs.FileType.File:
                yield PurePath(found.path).relative_to(top), found.size

    with tempfile.TemporaryDirectory(prefix="rrd-status-") as made:
        folder = Path(made) / name
        mirror = Mirror(Places(storage=Path(made), data_root=Path(made), remote=uri))
        try:
            for file in ("search.yaml", SNAPSHOT, HOLDER):
                mirror.pull(folder / file)
        except OSError as error:
            raise ValueError(f"{uri} cannot be read: {str(error).splitlines()[0]}") from error
        if (content := read_snapshot(folder / SNAPSHOT)) is not None:
            (folder / "study.db").write_bytes(content)
        elif (folder / SNAPSHOT).is_file():
            raise ValueError(f"{uri}/{name}/{SNAPSHOT} is damaged: its checksum is wrong")
        alive, driver = _told(folder)
        yield Stored(folder=folder, place=uri.partition("?")[0], files=files, alive=alive, driver=driver)


def _told(folder: Path) -> tuple[bool, str]:
    """By the beat of its driver there."""
    from rrd_search.storage import DEAD_SECONDS, holder_of

    known = holder_of(folder)
    if not known:
        return False, "no driver runs it"
    who, silent = f"process {known['pid']} on {known['host']}", time.time() - known["beat"]
    if silent < DEAD_SECONDS:
        return True, f"run by {who}, heard of {max(silent, 0):.0f} s ago"
    return False, f"no driver runs it; the last was {who}"


def _holds(pid: int, lock: Path) -> bool:
    """Whether the process lives and has the lock's file open: asked of the system, since who tries a lock to see has
    it for a moment."""
    try:
        opened = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:  # of another user
        return True
    except FileNotFoundError:  # ended, or a system without /proc
        return not Path("/proc/self").exists() and _lives(pid)
    return any(_target(link) == os.path.realpath(lock) for link in opened)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed by now
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sizes(folder: Path) -> Iterator[tuple[PurePath, int]]:
    """A sparse file takes less than its length."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            try:
                yield path.relative_to(folder), path.lstat().st_blocks * 512
            except OSError:  # gone by now
                continue

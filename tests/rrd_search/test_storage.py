"""Which storage is this machine's own, and which one others share."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from rrd_search import storage
from rrd_search.network_folder import on_network
from rrd_search.storage import HOLDER, TAKEN_OVER, cache, held_there, holder_of, places_of

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 22 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
41 40 8:2 / /home/fast\\040disk rw - xfs /dev/sdb rw
42 22 0:41 / /mnt/data rw - fuse.sshfs me@server: rw
"""


def test_a_file_system_of_the_network_is_known(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert on_network(Path("/home/me/runs"), mounts)
    assert on_network(Path("/mnt/data"), mounts)
    assert not on_network(Path("/home/fast disk/runs"), mounts)
    assert not on_network(Path("/homes/runs"), mounts)
    assert not on_network(Path("/home/me/runs"), tmp_path / "another system")


def test_a_folder_that_machines_share_is_a_uri_with_a_folder_of_this_machine_before_it(tmp_path, monkeypatch):
    shared, own = tmp_path / "shared", tmp_path / "own"
    assert places_of(str(shared)).remote is None
    monkeypatch.setattr(storage, "on_network", lambda path: path.is_relative_to(shared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    places = places_of(str(shared / "runs"))
    assert places.remote == (shared / "runs").as_uri()
    assert places.storage.is_relative_to(own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    assert not cache().is_relative_to(shared), "SQLite's files are on a disk of this machine"


def test_a_uri_with_one_slash_is_no_folder():
    with pytest.raises(ValueError, match="two slashes: s3://bucket/folder"):
        places_of("s3:/bucket/folder")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Of a search at a URI; the machine that looks is called here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("LOOK_SECONDS", "CLAIM_SECONDS", "BEAT_SECONDS"):
        monkeypatch.setattr(storage, name, 0.05)
    return places_of((tmp_path / "shared").as_uri())


def claimed(places, **other):
    folder = Path(places.remote.removeprefix("file://")) / "n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HOLDER).write_text(json.dumps({"machine": "m", "host": "far", "pid": 7, "claim": "c", **other}))
    return folder


def test_a_driver_that_lives_elsewhere_keeps_its_search(places):
    before = claimed(places, beat=time.time() - 10)
    said = []

    def say(line):
        said.append(line)
        claimed(places, beat=time.time())  # its next sign of life

    with pytest.raises(ValueError, match="n is being run by process 7 on far"), held_there(places, "n", say):
        pass
    assert "process 7 on far ran n last" in said[0]
    assert holder_of(before)["claim"] == "c"


@pytest.mark.parametrize("way", ["dead for long", "dies now", "says goodbye"])
def test_a_driver_that_died_elsewhere_is_waited_out(way, places, monkeypatch):
    monkeypatch.setattr(storage, "DEAD_SECONDS", 0.5)
    folder = claimed(places, beat=time.time() - (1 if way == "dead for long" else 0))
    said = []

    def say(line):
        said.append(line)
        if way == "says goodbye":
            claimed(places, beat=0)

    with held_there(places, "n", say):
        first = holder_of(folder)
        assert first["claim"] != "c"
        deadline = time.monotonic() + 60
        while holder_of(folder)["beat"] == first["beat"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert holder_of(folder)["beat"] > first["beat"]
    assert holder_of(folder)["beat"] == 0
    assert bool(said) == (way != "dead for long")


def test_of_two_that_begin_at_once_one_is_refused(places, monkeypatch):
    monkeypatch.setattr(storage, "bring", lambda *_: None)
    seconds = []

    def sleep(duration):
        seconds.append(duration)
        claimed(places, beat=time.time())  # the other one's word comes later

    monkeypatch.setattr(storage.time, "sleep", sleep)
    with (
        pytest.raises(ValueError, match="begun at the same moment by process 7 on far"),
        held_there(places, "n", print),
    ):
        pass
    assert seconds == [storage.CLAIM_SECONDS]


def test_a_driver_that_was_taken_for_dead_ends_when_it_sees_its_successor(places):
    def drive():
        with held_there(places, "n", print):
            claimed(places, beat=time.time())
            time.sleep(60)

    driver = multiprocessing.get_context("fork").Process(target=drive)
    driver.start()
    driver.join(30)
    assert driver.exitcode == TAKEN_OVER
    assert holder_of(claimed(places, beat=1.0))["claim"] == "c"

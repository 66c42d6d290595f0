"""Which storage is this machine's own, and which one others share."""

from pathlib import Path

from rrd_search import storage
from rrd_search.storage import cache, on_network, places_of

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

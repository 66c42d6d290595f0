"""The copy of a storage folder: what is pushed is there, what is pulled is here, and without a copy nothing happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import CREDENTIALS, s3_server

from trainables.mirror import Mirror, open_store
from trainables.places import Places


@pytest.fixture(params=["file", "s3"])
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "file":
        (tmp_path / "there").mkdir()
        yield f"file://{tmp_path / 'there'}"
        return
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path) as uri:
        yield uri


def machine(tmp_path: Path, name: str, there: str | None) -> tuple[Mirror, Path]:
    (tmp_path / name / "trial").mkdir(parents=True)
    return Mirror(Places(storage=tmp_path / name, data_root=tmp_path, remote=there)), tmp_path / name


def test_files_go_from_machine_to_machine(there: str, tmp_path: Path) -> None:
    first, one = machine(tmp_path, "one", there)
    second, other = machine(tmp_path, "other", there)
    assert not second.pull(other / "trial" / "a-1.pt")
    for name in ("a-1.pt", "a-2.pt", "b.json"):
        (one / "trial" / name).write_bytes(name.encode() * 1000)
    first.push_only(one / "trial", "a-*.pt")
    (other / "trial" / "a-0.pt").write_bytes(b"of an earlier life")
    second.pull_only(other / "trial", "a-*.pt")
    assert sorted(file.name for file in (other / "trial").iterdir()) == ["a-1.pt", "a-2.pt"]
    assert (other / "trial" / "a-2.pt").read_bytes() == b"a-2.pt" * 1000
    (one / "trial" / "a-1.pt").unlink()
    first.push_only(one / "trial", "a-*.pt")
    second.pull_only(other / "trial", "a-*.pt")
    assert [file.name for file in (other / "trial").iterdir()] == ["a-2.pt"]
    first.push(one / "trial" / "b.json")
    second.pull_tree(other, "*.json")
    assert (other / "trial" / "b.json").read_bytes() == b"b.json" * 1000
    assert second.folders(other) == {"trial"}
    assert second.folders(other / "nowhere") == set()
    first.delete(one / "trial")
    assert not second.pull(other / "trial" / "b.json")
    first.delete(one / "trial")


def test_without_a_copy_nothing_happens(tmp_path: Path) -> None:
    mirror, here = machine(tmp_path, "one", None)
    file = here / "trial" / "a.pt"
    file.write_bytes(b"here")
    mirror.push(file)
    mirror.push_only(file.parent, "*.pt")
    mirror.pull_only(file.parent, "*.pt")
    mirror.delete(file)
    assert mirror.folders(here) == set()
    assert mirror.pull(file)
    assert file.read_bytes() == b"here"


@pytest.mark.parametrize("uri", ["nowhere://bucket/x", "s3:///"])
def test_what_is_no_storage(uri: str) -> None:
    with pytest.raises(ValueError, match="is no storage"):
        open_store(uri)

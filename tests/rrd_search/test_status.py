"""What ``rrd_search.status`` says, beside a driver that lives, one that died, and none; and that it leaves no trace."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from tiny_search import NAME

from rrd_search.command import exit_code
from rrd_search.journal import Journal, unsent_in
from rrd_search.optuna_searcher import Study
from rrd_search.recorded_trials import read_trials
from rrd_search.space import load_space
from rrd_search.status import main, status
from rrd_search.storage import HOLDER
from rrd_search.stored_search import at_uri, in_folder
from rrd_search.study_rows import read_rows
from rrd_search.study_snapshot import SNAPSHOT
from rrd_search.study_storage import StudyStorage
from trainables.mirror import Mirror
from trainables.places import Places
from trainables.whole_file import write_sealed, write_whole

DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_space_change import SMALL, Study, begin
from rrd_search.request import held
folder = Path({folder!r})
with held(folder):
    study = Study(f"sqlite:///{{folder / 'study.db'}}", "search", SMALL, "random", 0)
    begin(study)
    print("ready", flush=True)
    for line in sys.stdin:
        for number in range(200):
            one = study.propose()
            study.report(one.trial_id, 1, 0.5)
            study.tell(one.trial_id, "complete", 0.5)
"""


@pytest.fixture
def folder(tmp_path: Path, empty: Path) -> Path:
    folder = tmp_path / "runs" / "search"
    folder.mkdir(parents=True)
    shutil.copy(empty, folder / "study.db")
    return folder


@pytest.fixture
def driver(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the search and has its study open; it proposes more when it is told to."""
    code = DRIVER.format(tests=str(Path(__file__).parent), folder=str(folder))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def traces(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of every file below, the storage folder's own included: identity, size and when it was written."""
    found = [folder.parent, folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def said(folder: Path) -> str:
    return "\n".join(status(in_folder(folder.parent, folder.name)))


def test_beside_a_driver(folder: Path, driver: "subprocess.Popen[str]") -> None:
    """While it waits, while it writes, and after it was killed: what is told is true, and nothing is touched."""
    assert (folder / "study.db-wal").stat().st_size > 0, "what it wrote is not in the file itself"
    (folder / "trials" / "00004").mkdir(parents=True)
    (folder / "trials" / "00004" / "checkpoint.pt").write_bytes(bytes(3 * 2**20))
    before = traces(folder)
    told = said(folder)
    assert f"search: run by process {driver.pid} on this machine" in told
    assert "4 trials have ended: 2 complete, 1 stopped early, 1 failed" in told
    assert "1 of 1 references have ended" in told
    assert re.search(r"2 run:\n  00004: epoch 1 of 240, 54\.00 %, since [-\d]+ \d\d:\d\d \(\d+ s\)\n  00005", told)
    assert "00003 failed after epoch 1: out of memory" in told
    assert "best so far: 00001, 80.00 %" in told
    assert re.search(r"disk: 3\.\d MiB in .*/search \(checkpoints 3\.0 MiB, study and records", told)
    assert traces(folder) == before
    assert driver.stdin is not None
    driver.stdin.write("go on\n")
    driver.stdin.flush()
    seen = [7]
    while seen[-1] < 60:
        rows = read_rows(folder)
        assert all(row.state == "running" or row.epochs == 1 for row in rows if not row.reference)
        seen.append(len(rows))
    assert sorted(seen) == seen
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = traces(folder)
    told = said(folder)
    assert f"search: no driver runs it; the last was process {driver.pid}\n" in told
    assert re.search("[23] go on at the next start:", told)
    assert len(read_rows(folder)) == len(read_trials(folder)) >= seen[-1]
    assert traces(folder) == before


def test_it_says_of_a_study_what_optuna_says(tiny_storage: Path, tmp_path: Path) -> None:
    rows, records = read_rows(tiny_storage / NAME), read_trials(tiny_storage / NAME)
    names = ("trial_id", "state", "value", "epochs", "point", "reference", "reason", "earlier")
    assert [[getattr(row, name) for name in names] for row in rows] == [
        [getattr(record, name) if name != "value" or record.state != "failed" else None for name in names]
        for record in records
    ]
    copy = shutil.copytree(tiny_storage / NAME, tmp_path / NAME) / "study.db"
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{copy}")
    assert [row.started for row in rows if not row.reference] == [trial.datetime_start for trial in study.trials]
    assert [row.of_epochs for row in rows] == [record.config.epochs for record in records]
    told = said(tiny_storage / NAME)
    assert "tiny: no driver runs it" in told
    assert "4 of 4 trials have ended: 2 complete, 1 stopped early, 1 failed" in told
    assert "students " in told
    assert "shared with other searches there: tables " in told


def test_at_a_uri(tiny_storage: Path, tmp_path: Path) -> None:
    """What its driver has put there: the snapshot, and a beat."""
    there = tmp_path / "bucket" / NAME
    places = Places(storage=tiny_storage, data_root=tiny_storage, remote=f"file://{tmp_path}/bucket")
    mirror = Mirror(places)
    student = next((tiny_storage / NAME / "trials").glob("0*/student.safetensors"))
    for file in (tiny_storage / NAME / "search.yaml", student):
        mirror.push(file)
    study = StudyStorage(f"sqlite:///{tiny_storage / NAME / 'study.db'}")
    content = study.content()
    study.close()
    write_whole(there / SNAPSHOT, content, hashlib.sha256(content).digest())
    for beat, told in (
        (0.0, "no driver runs it; the last was process 7 on far"),
        (time.time(), "run by process 7 on far"),
    ):
        (there / HOLDER).write_text(json.dumps({"machine": "m", "host": "far", "pid": 7, "beat": beat}))
        before = traces(there)
        with at_uri(str(places.remote), NAME) as stored:
            shown = "\n".join(status(stored))
            assert read_rows(stored.folder) == read_rows(tiny_storage / NAME)
        assert f"tiny: {told}" in shown
        assert "4 of 4 trials have ended: 2 complete, 1 stopped early, 1 failed" in shown
        assert re.search(r"disk: [\d.]+ KiB in file://.*/bucket/tiny \(students [\d.]+ KiB, study and records", shown)
        assert traces(there) == before
    with (
        at_uri(str(places.remote), "other") as stored,
        pytest.raises(ValueError, match="no search called other in file:"),
    ):
        list(status(stored))


def test_a_folder_that_machines_share_is_looked_at_as_tune_uses_it(
    tiny_storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its study lies in the cache of the driver's machine, and its snapshot there."""
    monkeypatch.setattr("rrd_search.status.on_network", lambda path: path == tmp_path)
    study = StudyStorage(f"sqlite:///{tiny_storage / NAME / 'study.db'}")
    write_sealed(tmp_path / NAME / SNAPSHOT, study.content())
    study.close()
    shutil.copy(tiny_storage / NAME / "search.yaml", tmp_path / NAME)
    assert main([NAME, "--storage", str(tmp_path)]) == 0
    assert "4 of 4 trials have ended: 2 complete" in capsys.readouterr().out
    damaged = bytearray((tmp_path / NAME / SNAPSHOT).read_bytes())
    damaged[100] ^= 1
    (tmp_path / NAME / SNAPSHOT).write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="is damaged: its checksum is wrong"):
        main([NAME, "--storage", str(tmp_path)])


def test_records_that_wait_for_mlflow(tmp_path: Path) -> None:
    assert unsent_in(tmp_path) == 0
    journal = Journal(tmp_path, server="sqlite:///m.db")
    for number in range(5):
        journal.append({"kind": "epoch", "number": number})
    assert unsent_in(tmp_path) == 5
    journal.acknowledge(journal.unacknowledged())
    assert unsent_in(tmp_path) == 0
    journal.append({"kind": "end"})
    assert unsent_in(tmp_path) == journal.unsent == 1
    (tmp_path / "record.offset").write_text("torn")
    assert unsent_in(tmp_path) == 6


def test_a_driver_elsewhere_and_one_that_only_begins(folder: Path) -> None:
    (folder / "study.db").unlink()
    (folder / "driver.pid").write_text("4711 on another-host")
    told = said(folder)
    assert "search: last run by process 4711 on another-host, which cannot be seen from here" in told
    assert "0 trials have ended" in told
    (folder / "driver.pid").write_text(f"{os.getpid()} on {os.uname().nodename}")
    assert "no driver runs it" in said(folder), "this process lives, but does not hold the search"


def test_one_line_says_what_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str) -> str:
        monkeypatch.setattr(sys, "argv", ["status", name, "--storage", str(folder.parent)])
        assert exit_code(main) == 2
        return capsys.readouterr().err

    assert fails("serach") == f"error: no search called serach in {folder.parent}; searches there are search\n"
    (folder / "study.db").write_bytes((folder / "study.db").read_bytes()[:5000])
    assert re.fullmatch(r"error: .*study\.db cannot be read: .*\n", fails("search"))


def test_it_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys; from rrd_search.status import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'numpy'} & sys.modules.keys(); assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, "search", "--storage", str(folder.parent)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "search: no driver runs it" in ended.stdout


def test_a_folder_that_was_renamed_is_told(tiny_storage: Path, tmp_path: Path) -> None:
    """Its study would seem to be empty, and a search that goes on there would begin anew over what is there."""
    folder = Path(shutil.copytree(tiny_storage / NAME, tmp_path / "other"))
    told = "the folder other holds the search tiny: its name must be tiny"
    for read in (read_rows, read_trials):
        with pytest.raises(ValueError, match=told):
            read(folder)
    with pytest.raises(ValueError, match=told):
        Study(f"sqlite:///{folder / 'study.db'}", "other", load_space("quickstart"))

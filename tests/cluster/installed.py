"""Stands in for `make install` on a host without internet: ~/rrd_search/.venv with this machine's packages, and with
the project as it lies in ~/rrd_search. `make install` then finds nothing to do. Run on the host, as its user."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path.home() / "rrd_search"


def main(environment: Path) -> None:
    """``environment``: the one in which this machine runs the tests."""
    own = PROJECT / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    packages = next(own.glob("lib/python*/site-packages"))
    theirs = environment / packages.relative_to(own)
    # As an editable install has it. Python does not read the .pth files of a folder that a .pth file names, so the
    # machine's own editable install of the project is not seen.
    (packages / "installed.pth").write_text(f"{PROJECT}\n{theirs}\n")
    for script in (environment / "bin").iterdir():
        if script.is_file() and not (own / "bin" / script.name).exists():
            _copy(script, own / "bin" / script.name, environment)
    (own / "installed-aws").touch()  # as the Makefile has it for the nodes of a cluster


def _copy(script: Path, copy: Path, environment: Path) -> None:
    """A script of a package, with the interpreter of the new environment; programs are left out."""
    first, newline, rest = script.read_bytes().partition(b"\n")
    if first.startswith(b"#!" + os.fsencode(environment / "bin")):
        copy.write_bytes(b"#!" + os.fsencode(copy.parent / "python") + newline + rest)
        copy.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

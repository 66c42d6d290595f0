"""Where the processes of a trial find files. Not part of a TrialConfig: another place gives the same result."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """``storage`` holds what is made here (decoded images, teachers, searches), ``data_root`` the downloaded datasets.

    Both must be the same folder on every machine that trains; or, with ``remote``, a URI, ``storage`` is each machine's
    own folder, and what must outlive a machine is copied there. Teachers' tables take up to ``table_gb`` GiB of the
    storage.
    """

    storage: Path
    data_root: Path
    table_gb: float = 20.0
    remote: str | None = None

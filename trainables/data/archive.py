"""The published files of a dataset: where they lie, and their download by torchvision where they are missing."""

import socket
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Archive:
    """``files`` in the folder ``folder`` below the data root; torchvision's class of that name knows the address and
    the checksum (None: it has none), ``address`` is what a person is told."""

    dataset: str
    folder: str
    files: tuple[str, ...]
    address: str
    torchvision_class: str | None = None

    def found(self, root: Path) -> Path:
        """The dataset's folder below ``root``; missing files are downloaded once, else ``ValueError``."""
        folder = root / self.folder
        if not self._missing(folder):
            return folder
        if self.torchvision_class is None:
            raise ValueError(f"{self._not_found(folder)}: unpack {self.address} in {root} by hand")
        try:
            self._download(root)
        except Exception as error:  # torchvision lets through whatever network, disk and archive raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{self._not_found(folder)}; its download failed ({reason}): unpack {self.address} in {root} by hand"
            ) from error
        if self._missing(folder):
            raise ValueError(f"{self._not_found(folder)}, although {self.address} was downloaded and unpacked")
        return folder

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).exists()]

    def _not_found(self, folder: Path) -> str:
        return f"{self.dataset}: {folder} lacks {', '.join(self._missing(folder))}"

    def _download(self, root: Path) -> None:
        from torchvision import datasets  # slow to import, and needed only here

        published = getattr(datasets, str(self.torchvision_class))
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{published.filename}.lock"):
            if not self._missing(root / self.folder):
                return  # another process was first
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(_TIMEOUT_SECONDS)  # torchvision sets none: behind a firewall it would hang
            try:
                datasets.utils.download_and_extract_archive(
                    published.url, str(root), filename=published.filename, md5=published.tgz_md5
                )
            finally:
                socket.setdefaulttimeout(before)

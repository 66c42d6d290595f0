"""The copy of a storage folder that every machine reaches: an object store, or a file system of pyarrow's."""

import os
import re
from functools import cached_property
from pathlib import Path

from pyarrow import fs

from trainables.places import Places
from trainables.whole_file import write_whole

OBJECT_STORES = ("s3", "gcs", "abfs")  # where a file appears when it is whole
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


class Mirror:
    """Of ``places.storage`` at ``places.remote``; where that is None, every method does nothing.

    What was pushed is what counts; the folder on a machine may be lost. OSError where the store does not answer.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    @cached_property
    def _there(self) -> tuple[fs.FileSystem, str]:
        assert self._places.remote is not None, "asked for only where there is one"
        return open_store(self._places.remote)

    @property
    def exists(self) -> bool:
        return self._places.remote is not None

    def push(self, file: Path) -> None:
        """Copy a file there, whole or not at all."""
        if self.exists:
            store, _ = self._there
            content = file.read_bytes()
            name = draft = self._name(file)
            if store.type_name not in OBJECT_STORES:
                draft = f"{name}.{os.uname().nodename}.{os.getpid()}"
                store.create_dir(name.rpartition("/")[0], recursive=True)
            with store.open_output_stream(draft) as stream:
                stream.write(content)
            if draft != name:
                store.move(draft, name)

    def pull(self, file: Path) -> bool:
        """Copy a file from there over the one that is here; whether there is one."""
        if not self.exists:
            return file.is_file()
        store, _ = self._there
        if store.get_file_info(self._name(file)).type != fs.FileType.File:
            return False
        with store.open_input_file(self._name(file)) as stream:
            write_whole(file, stream.readall())
        return True

    def push_only(self, folder: Path, pattern: str) -> None:
        """Make the files of ``folder`` there those that are here, as far as their names match."""
        if self.exists:
            here = {file.name for file in folder.glob(pattern)}
            there = self._names(folder, pattern)
            for name in sorted(here - there):
                self.push(folder / name)
            for name in there - here:
                self._there[0].delete_file(self._name(folder / name))

    def pull_only(self, folder: Path, pattern: str) -> None:
        """Make the files of ``folder`` here those that are there, as far as their names match."""
        if self.exists:
            there = self._names(folder, pattern)
            for file in folder.glob(pattern):
                if file.name not in there:
                    file.unlink(missing_ok=True)
            for name in there:
                if not (folder / name).is_file():
                    self.pull(folder / name)

    def pull_tree(self, folder: Path, pattern: str) -> None:
        """Copy every file below ``folder`` whose name matches and that is there and not here, or here in another
        size."""
        if self.exists:
            store, root = self._there
            selected = fs.FileSelector(self._name(folder), allow_not_found=True, recursive=True)
            for info in store.get_file_info(selected):
                file = self._places.storage / Path(info.path).relative_to(root)
                wanted = info.type == fs.FileType.File and file.match(pattern)
                if wanted and not (file.is_file() and file.stat().st_size == info.size):
                    self.pull(file)

    def delete(self, path: Path) -> None:
        """There, a file or all that lies below a folder; nothing where there is none."""
        if self.exists:
            store, _ = self._there
            kind = store.get_file_info(self._name(path)).type
            if kind == fs.FileType.File:
                store.delete_file(self._name(path))
            elif kind == fs.FileType.Directory:
                store.delete_dir(self._name(path))

    def folders(self, folder: Path) -> set[str]:
        """The names of those that lie in ``folder`` there."""
        if not self.exists:
            return set()
        selected = fs.FileSelector(self._name(folder), allow_not_found=True)
        infos = self._there[0].get_file_info(selected)
        return {info.base_name for info in infos if info.type == fs.FileType.Directory}

    def of_train(self, folder: Path) -> tuple[str, fs.FileSystem | None]:
        """Path and file system for Ray Train's own files of a trial with several workers."""
        return (self._name(folder), self._there[0]) if self.exists else (str(folder), None)

    def _names(self, folder: Path, pattern: str) -> set[str]:
        selected = fs.FileSelector(self._name(folder), allow_not_found=True)
        return {
            info.base_name
            for info in self._there[0].get_file_info(selected)
            if info.type == fs.FileType.File and Path(info.base_name).match(pattern)
        }

    def _name(self, path: Path) -> str:
        return "/".join([self._there[1], *path.relative_to(self._places.storage).parts])


def open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it that a URI names, as ``s3://BUCKET/FOLDER?endpoint_override=HOST:PORT``.
    ValueError for what pyarrow does not know, OSError where it asks the store and gets no answer."""
    try:
        store, root = fs.FileSystem.from_uri(uri)
    except ValueError as error:
        raise ValueError(f"{uri} is no storage: {str(error).splitlines()[0]}") from error
    return store, root.rstrip("/")

"""An uncompressed Arrow IPC file of one record batch, in place in one step: a reader finds all of it or nothing."""

import os
from pathlib import Path

import pyarrow as pa


def write_batch(draft: Path, path: Path, batch: pa.RecordBatch) -> None:
    """Write ``batch`` to ``draft``, then give it the name ``path``."""
    with draft.open("wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the name without the content
    draft.replace(path)


def map_batch(path: Path) -> tuple[pa.RecordBatch, dict[str, str]]:
    """The batch in ``path``, mapped, not copied, and the file's metadata. pyarrow's errors where it is damaged."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    metadata = {name.decode(): fact.decode() for name, fact in (reader.schema.metadata or {}).items()}
    return reader.get_batch(0), metadata

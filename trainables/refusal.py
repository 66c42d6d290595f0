"""Errors of a trial that would only come again, and what they are called."""

import torch

OUT_OF_MEMORY, REFUSED = "out of memory", "cannot be trained"  # kinds of errors
NO_MEMORY = ("out of memory", "can't allocate memory")  # as PyTorch, cuDNN and the CPU's allocator say it


def refused(error: BaseException) -> str | None:
    """The kind of an error that would only come again: a config or data that cannot be trained, or no memory for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY):
        return OUT_OF_MEMORY
    return REFUSED if isinstance(error, ValueError) else None

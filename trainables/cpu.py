"""How a process trains on a CPU."""

import ctypes
import sys

import torch

# glibc's names for mallopt (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
TAKEN_AT_ONCE = 64 * 2**20  # bytes


def settle(threads: int) -> None:
    """Train with so many threads, and keep freed memory for the next step.

    glibc gives large blocks back to the kernel when they are freed; the next step's activations then come page by page,
    which takes up to an eighth of a step. The process stays as large as it ever was.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, TAKEN_AT_ONCE)):
            libc.mallopt(option, value)

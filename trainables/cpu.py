"""What a process that trains does with its cores, and with its memory."""

import ctypes
import sys

import torch

# glibc's names for mallopt (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
TAKEN_AT_ONCE = 64 * 2**20  # bytes


def settle(threads: int, device: torch.device) -> None:
    """Take so many threads for what is computed on the cores, beside a GPU too: Ray tells a process how many it has
    when PyTorch may be imported already. To train on a CPU, keep freed memory for the next step.

    glibc gives large blocks back to the kernel when they are freed; the next step's activations then come page by page,
    which takes up to an eighth of a step. The process stays as large as it ever was.
    """
    torch.set_num_threads(threads)
    if device.type == "cpu" and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, TAKEN_AT_ONCE)):
            libc.mallopt(option, value)

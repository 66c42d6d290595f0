"""The queue of past teacher embeddings that both networks are related to."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Memory(nn.Module):
    """A ring of the last ``size`` unit vectors; the oldest are overwritten first.

    ``queue`` is [K, d] and starts as random unit rows drawn from ``generator``; ``position`` is the row that is
    written next. Both are buffers, so they are part of a checkpoint. Any number of vectors may be written at once.
    """

    queue: Tensor  # [K, d]
    position: Tensor  # [] int64

    def __init__(self, size: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        rows = torch.randn(size, dim, generator=generator)
        self.register_buffer("queue", F.normalize(rows, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, vectors: Tensor) -> None:
        """Write ``vectors`` [n, d] behind the newest row, around the end of the ring if need be, without a sync."""
        size, count = len(self.queue), len(vectors)
        kept = vectors[-size:]  # of more vectors than rows only the last survive
        skipped = count - len(kept)
        rows = torch.arange(skipped, count, device=self.queue.device)
        self.queue.index_copy_(0, (rows + self.position) % size, kept.to(self.queue.dtype))
        self.position.copy_((self.position + count) % size)

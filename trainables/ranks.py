"""The ranks that train one trial together: who one is, and how they agree. All of it also holds for a lone process."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """In place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


@torch.no_grad()
def gather(share: Tensor) -> Tensor:
    """The shares [n, ...] of all ranks, in their order, on every rank: [ranks x n, ...]. All are of one shape."""
    if world_size() == 1:
        return share
    shares = [torch.empty_like(share) for _ in range(world_size())]
    dist.all_gather(shares, share.contiguous())
    return torch.cat(shares)


def all_agree(yes: bool, device: torch.device) -> bool:
    """Whether every rank says yes."""
    if world_size() == 1:
        return yes
    said = torch.tensor(int(yes), device=device)
    dist.all_reduce(said, dist.ReduceOp.MIN)
    return bool(said.item())


def from_first(number: int, device: torch.device) -> int:
    """The first rank's number, on every rank."""
    if world_size() == 1:
        return number
    said = torch.tensor(number, device=device)
    dist.broadcast(said, 0)
    return int(said.item())


def first_with(yes: bool, device: torch.device) -> int | None:
    """The first rank that says yes, on every rank."""
    said = torch.tensor(own_rank() if yes else world_size(), device=device)
    if world_size() > 1:
        dist.all_reduce(said, dist.ReduceOp.MIN)
    return None if said.item() == world_size() else int(said.item())


def from_rank(rank: int, values: Tensor) -> Tensor:
    """That rank's values, on every rank; in place. All are of one shape."""
    if world_size() > 1:
        dist.broadcast(values, rank)
    return values

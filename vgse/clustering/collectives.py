"""The few collective operations of training; without `torch.distributed` each of them is the identity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of training workers, 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, 0 without `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(x: Tensor) -> Tensor:
    """Sum of `x` over all ranks, the same on all of them; carries no gradient."""
    total = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def gather_rows(x_BD: Tensor) -> Tensor:
    """All ranks' rows below each other in rank order, (N, D); ranks may hold different numbers of rows, or none."""
    if world_size() == 1:
        return x_BD.detach()
    counts = torch.zeros(world_size(), dtype=torch.long, device=x_BD.device)
    counts[rank()] = len(x_BD)
    dist.all_reduce(counts)
    sizes = counts.tolist()
    padded = x_BD.new_zeros(max(sizes), *x_BD.shape[1:])
    padded[: len(x_BD)] = x_BD.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        dist.barrier()

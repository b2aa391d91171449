"""Stops training on all ranks at the same step where a loss or gradient is not a number.

Neither check costs a message while all is well: losses are sums over all ranks already and gradients averages, so what
is not finite on one rank is not finite on every rank. Only then are the ranks asked which of them it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vgse.clustering.collectives import gather_rows
from vgse.clustering.objective import LOCAL_TERMS, Losses
from vgse.errors import NonFiniteLossError


def raise_if_loss_not_finite(losses: Losses, step: int) -> None:
    """Checks all terms of the global batch, and the features they were made from.

    Raises:
        NonFiniteLossError: on all ranks alike, with the first rank and term that was not finite.
    """
    if not bool(torch.isfinite(torch.stack([losses.total.detach(), losses.features])).all()):
        _raise_first(losses.local, list(LOCAL_TERMS), step, unknown="loss")


def raise_if_gradient_not_finite(model: nn.Module, backward_again: Callable[[], None], step: int) -> None:
    """Checks the gradients after the backward pass, before the optimiser uses them.

    Args:
        model: the network, wrapped or not.
        backward_again: repeats this step's passes, to find the rank in a backward pass without averaging.
        step: number of the step.

    Raises:
        NonFiniteLossError: on all ranks alike, with the first rank and parameter that was not finite.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
        return
    model.zero_grad(set_to_none=True)
    with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
        backward_again()
    named = [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None]
    sums = torch.stack([gradient.sum().float() for _, gradient in named])
    _raise_first(sums, [f"gradient of {name.removeprefix('module.')}" for name, _ in named], step, unknown="gradient")


def _raise_first(values: Tensor, names: list[str], step: int, *, unknown: str) -> NoReturn:
    broken_RT = gather_rows((~torch.isfinite(values)).long()[None])
    for rank, broken in enumerate(broken_RT.tolist()):
        if any(broken):
            raise NonFiniteLossError(step, rank, names[broken.index(1)])
    # Finite on every rank, and only their sum is not: no rank is more to blame than another.
    raise NonFiniteLossError(step, 0, unknown)

"""Stops training on all ranks at the same step where a loss or gradient is not a number.

The check costs no message while all is well, and one look at the device: losses are sums over all ranks already and
gradients averages, so what is not finite on one rank is not finite on every rank. Only then are the ranks asked which
of them it came from.
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


def raise_if_not_finite(losses: Losses, model: nn.Module, backward_again: Callable[[], None], step: int) -> None:
    """Checks a step after its backward pass, before the optimiser uses the gradients.

    Args:
        losses: all terms of the global batch, and the features they were made from.
        model: the network, wrapped or not, with its gradients.
        backward_again: repeats this step's passes, to find the rank in a backward pass without averaging.
        step: number of the step.

    Raises:
        NonFiniteLossError: on all ranks alike, with the first rank and term, or else parameter, that was not finite.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    sound = torch.stack([losses.total.detach(), losses.features, nn.utils.get_total_norm(gradients)]).isfinite()
    if bool(sound.all()):
        return
    if not bool(sound[:2].all()):
        _raise_first(losses.local, list(LOCAL_TERMS), step, unknown="loss")
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

"""What a checkpoint holds: named tensors for safetensors, everything else as JSON."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vgse.clustering.bank import NeighbourBank
from vgse.clustering.checkpoints import Saved
from vgse.clustering.network import ClusterNetwork
from vgse.errors import ConfigError

if TYPE_CHECKING:
    from vgse.clustering.training import FitSettings

# These change neither what is learned nor the schedule (precision changes it only within its noise).
_FREE = {"checkpoint_every", "validate_every", "mixed_precision", "accumulate"}


def pack(
    network: ClusterNetwork,
    optimizer: torch.optim.Optimizer,
    bank: NeighbourBank,
    settings: FitSettings,
    history: list[dict[str, float]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON state of a run between two steps.

    There is no random state: whatever is drawn follows from the seed, the step and the rank.
    """
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}/{key}"] = value
    tensors.update({f"bank.{name}": value for name, value in bank.state_dict().items()})
    return tensors, {"settings": asdict(settings), "history": history}


def unpack(
    tensors: dict[str, Tensor], network: ClusterNetwork, optimizer: torch.optim.Optimizer, bank: NeighbourBank
) -> None:
    """Puts what `pack` gave back in place, on the devices of its targets."""
    network.load_state_dict(_below("model.", tensors))
    moments = _below("optimizer.", tensors)
    parameters = dict(network.named_parameters())
    for path, value in moments.items():
        name, key = path.rsplit("/", 1)
        # AdamW keeps its step counters on the CPU. Its one-pass kernel walks parameters and moments by their storage:
        # moments must lie as their parameter does (channels last), which files do not keep.
        kept = value if key == "step" else torch.empty_like(parameters[name]).copy_(value)
        optimizer.state[parameters[name]][key] = kept
    bank.load_state_dict(_below("bank.", tensors))


def epoch_tensors(saved: Saved) -> dict[str, Tensor]:
    """The figures so far of an epoch in whose middle a checkpoint was written, as `EpochMetrics` takes them."""
    return _below("epoch.", saved.tensors)


def network_tensors(saved: Saved) -> dict[str, Tensor]:
    """The network's `state_dict` in a checkpoint."""
    return _below("model.", saved.tensors)


def checked_history(
    saved: Saved | None, settings: FitSettings, network: ClusterNetwork, steps_per_epoch: int
) -> list[dict[str, float]]:
    """Figures of the epochs behind `saved`, after checking that it continues the same run.

    Raises:
        ConfigError: it was trained with other settings, another network or another number of patches; names the
            differing fields.
    """
    if saved is None:
        return []
    # A setting that is younger than the checkpoint had its default effect.
    now, then = asdict(settings), {field.name: field.default for field in fields(settings)} | saved.state["settings"]
    differing = [
        f"{key} was {then.get(key)}, is {now[key]}" for key in now if key not in _FREE and then.get(key) != now[key]
    ]
    steps_then = saved.state["steps_per_epoch"]
    if steps_then != steps_per_epoch:
        differing.append(f"an epoch had {steps_then} steps, has {steps_per_epoch}")
    shapes_then = {name: tuple(value.shape) for name, value in network_tensors(saved).items()}
    shapes_now = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    differing += [
        f"{name} was {shapes_then.get(name)}, is {shapes_now.get(name)}"
        for name in sorted(shapes_then.keys() | shapes_now.keys())
        if shapes_then.get(name) != shapes_now.get(name)
    ][:3]
    if differing:
        raise ConfigError(
            f"the training checkpoint was made with other settings: {'; '.join(differing)}",
            "restore these settings to continue, or train into another folder",
        )
    return list(saved.state["history"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

"""The training loop: the same optimiser steps on any number of workers, resumed on any number.

Everything that is drawn or scheduled follows from (seed, step, rank), so a checkpoint holds no random state and a run
goes on in the middle of an epoch: the network, the optimiser's moments, the neighbour bank, the step and the epoch's
figures so far are all there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vgse.clustering.bank import NeighbourBank
from vgse.clustering.batches import Batch, BatchSource, InMemoryBatches
from vgse.clustering.checkpoints import Checkpoints, Saved
from vgse.clustering.collectives import world_size
from vgse.clustering.epoch_metrics import EpochMetrics
from vgse.clustering.global_step import GlobalStep
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.objective import Losses, ObjectiveWeights
from vgse.clustering.saving import Saver
from vgse.clustering.training_state import checked_history, epoch_tensors, unpack

__all__ = ["Batch", "BatchSource", "FitSettings", "InMemoryBatches", "Validate", "fit"]

# Figures of a network, the same on all ranks.
Validate = Callable[[ClusterNetwork], dict[str, float]]


@dataclass(frozen=True)
class FitSettings:
    """How to train. `neighbours` and `bank_size` are rows; `warmup_epochs`, `checkpoint_every` (maybe a fraction)
    and `validate_every` (0: never) are epochs.

    `mixed_precision` (`auto`, `true`, `false`) runs a backbone in bfloat16, losses stay in float32. `accumulate` is the
    number of micro-batches per step; it changes memory and time, not the gradients. In the first `head_epochs` epochs
    a backbone is left as it is; its learning rate warms up after them.
    """

    epochs: int = 15
    global_batch: int = 1024
    learning_rate: float = 3e-3
    backbone_learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_epochs: float = 1.0
    neighbours: int = 5
    bank_size: int = 4096
    weights: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    mixed_precision: str = "auto"
    accumulate: int = 1
    head_epochs: int = 0
    seed: int = 0
    checkpoint_every: float = 1.0
    validate_every: int = 0


def fit(
    network: ClusterNetwork,
    source: BatchSource,
    words_SW: Tensor,
    settings: FitSettings,
    *,
    checkpoints: Checkpoints,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    validate: Validate | None = None,
) -> ClusterNetwork:
    """Trains `network` and returns it, with the weights after the last epoch.

    Goes on from the latest checkpoint where there is one, on any number of ranks and in the middle of an epoch if need
    be; a finished run is loaded, not trained again. Under `torch.distributed` all ranks call this together; rank 0
    writes.

    Args:
        network: its initial weights count on rank 0 only.
        source: this rank's rows.
        words_SW: word vectors of the seen classes, as L_sem should see them.
        settings: see `FitSettings`.
        checkpoints: where to save and resume.
        device: to train on.
        on_epoch: called on every rank after every epoch (after its checkpoint) with the global epoch's figures.
        on_step: called with (step, steps in all) after every optimiser step.
        validate: called on all ranks every `validate_every` epochs and after the last with the network in evaluation
            mode; gives the same figures on all of them, and `val_H` decides which checkpoints are the best.

    Raises:
        NonFiniteLossError: on all ranks at the same step, before the optimiser moves; nothing is saved.
        ConfigError: the folder holds a checkpoint of other settings or of another number of patches.
    """
    device = torch.device(device)
    network.to(device)
    run = _Run(network, settings, words_SW.to(device, torch.float32), device, source.steps_per_epoch)
    saved = checkpoints.latest()
    history = checked_history(saved, settings, network, source.steps_per_epoch)
    if saved is not None:
        unpack(saved.tensors, network, run.optimizer, run.bank)
        if saved.state["finished"]:
            return network.eval()
    saver = Saver(checkpoints, network, run.optimizer, run.bank, settings, source.steps_per_epoch, history)
    for epoch in range(saved.epoch if saved else 0, settings.epochs):
        resumed = saved if saved and (saved.epoch, bool(saved.position)) == (epoch, True) else None
        run.wrap(epoch)
        figures = run.epoch(source, epoch, on_step, saver, resumed)
        if validate and settings.validate_every and _validation_due(epoch + 1, settings):
            figures |= _validated(network, validate)
        saver.after_epoch(int(figures["step"]), figures)
        if on_epoch:
            on_epoch(figures)
    return network.eval()


def _validation_due(epochs_done: int, settings: FitSettings) -> bool:
    return epochs_done % settings.validate_every == 0 or epochs_done == settings.epochs


def _validated(network: ClusterNetwork, validate: Validate) -> dict[str, float]:
    began = time.perf_counter()
    found = validate(network.eval())
    return {**found, "val_seconds": time.perf_counter() - began}


class _Run:
    """One training run in one process."""

    def __init__(
        self, network: ClusterNetwork, settings: FitSettings, words_SW: Tensor, device: torch.device, steps: int
    ) -> None:
        self.network, self.settings, self.device = network, settings, device
        self.steps_per_epoch = steps
        # One pass over all parameters; a GPU gets the same by default, with its step counters on the CPU.
        self.optimizer = torch.optim.AdamW(_parameter_groups(network, settings), fused=device.type == "cpu" or None)
        # With no more rows than an epoch has (its last batch may be short), a query's own earlier copy is in it once.
        capacity = min(settings.bank_size, max(1, steps - 1) * settings.global_batch)
        self.bank = NeighbourBank(capacity, network.feature_dim, network.num_clusters, device)

        self.gradients = GlobalStep(
            network,
            self.bank,
            words_SW,
            settings.weights,
            neighbours=settings.neighbours,
            accumulate=settings.accumulate,
            mixed_precision=settings.mixed_precision,
            seed=settings.seed,
        )
        self._wrapped: bool | None = None

    def wrap(self, epoch: int) -> None:
        """Lets gradients be averaged over ranks, and starts all ranks from rank 0's weights; again where the backbone
        joins in after `head_epochs`, since the wrapper must know what is trained."""
        joins = epoch >= self.settings.head_epochs
        if joins == self._wrapped:
            return
        self._wrapped = joins
        if self.network.backbone is not None:
            self.network.backbone.requires_grad_(joins)
        if world_size() > 1:
            self.gradients.model = DistributedDataParallel(
                self.network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
            )

    def epoch(
        self,
        source: BatchSource,
        epoch: int,
        on_step: Callable[[int, int], None] | None,
        saver: Saver,
        resumed: Saved | None = None,
    ) -> dict[str, float]:
        """Trains one epoch, or what is left of it after the checkpoint `resumed`.

        Returns:
            Its figures, the same on all ranks but for times.
        """
        self.gradients.model.train()
        metrics = EpochMetrics(self.network.num_clusters, self.device)
        first_step = resumed.position if resumed else 0
        if resumed:
            metrics.load_state_dict(epoch_tensors(resumed))
        total_steps = self.settings.epochs * self.steps_per_epoch
        batches, step = iter(source.epoch(epoch, first_step)), epoch * self.steps_per_epoch + first_step
        while True:
            waiting_since = time.perf_counter()
            batch = next(batches, None)
            metrics.waited(time.perf_counter() - waiting_since)
            if batch is None:
                break
            losses, a_BK = self.step(batch, step)
            metrics.add(losses, a_BK)
            step += 1
            saver.after_step(step, metrics)
            if on_step:
                on_step(step, total_steps)
        figures = metrics.result()
        rates = {f"{group['name']}_learning_rate": group["lr"] for group in self.optimizer.param_groups}
        return {"epoch": epoch + 1, "step": step, **figures, **rates}

    def step(self, batch: Batch, step: int) -> tuple[Losses, Tensor]:
        """One optimiser step on one global batch, stopped before the optimiser where anything is not finite."""
        self._schedule(step)
        inputs = batch.inputs.to(self.device, non_blocking=True)
        labels_B = batch.labels_B.to(self.device, non_blocking=True)
        losses, unit_BF, a_BK = self.gradients.backward(inputs, labels_B, step)
        self.optimizer.step()
        self.bank.push(unit_BF, a_BK)
        return losses, a_BK

    def _schedule(self, step: int) -> None:
        settings = self.settings
        first = {"heads": 0, "backbone": settings.head_epochs * self.steps_per_epoch}
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._factor(step - first[group["name"]], first[group["name"]])

    def _factor(self, step: int, first: int) -> float:
        """Warm-up, then cosine decay over the steps from `first` to the end; `step` counts from there."""
        if step < 0:
            return 0.0
        total = self.settings.epochs * self.steps_per_epoch - first
        warmup = min(self.settings.warmup_epochs * self.steps_per_epoch, total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))


def _parameter_groups(network: ClusterNetwork, settings: FitSettings) -> list[dict]:
    """Heads and backbone with their own rates; vectors (biases, normalisation) are not decayed."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        part = "backbone" if name.startswith("backbone.") else "heads"
        groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    peaks = {"heads": settings.learning_rate, "backbone": settings.backbone_learning_rate}
    return [
        {
            "params": parameters,
            "name": part,
            "peak": peaks[part],
            "lr": peaks[part],
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (part, decayed), parameters in groups.items()
    ]

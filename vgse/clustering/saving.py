"""When a training run saves itself: every so many steps, at its end, and where validation finds it among the best."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from vgse.clustering.bank import NeighbourBank
from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.collectives import barrier, rank
from vgse.clustering.epoch_metrics import EpochMetrics
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.training_state import pack

if TYPE_CHECKING:
    from vgse.clustering.training import FitSettings


class Saver:
    """Commits the checkpoints of one run. All ranks call it at the same steps; rank 0 writes.

    Args:
        checkpoints: where they go.
        network, optimizer, bank: what is saved.
        settings: of the fit; `checkpoint_every` is in epochs and may be a fraction.
        steps_per_epoch: global batches of an epoch.
        history: figures of the epochs done so far, to which `after_epoch` adds.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        network: ClusterNetwork,
        optimizer: torch.optim.Optimizer,
        bank: NeighbourBank,
        settings: FitSettings,
        steps_per_epoch: int,
        history: list[dict[str, float]],
    ) -> None:
        self._checkpoints, self._settings, self._history = checkpoints, settings, history
        self._network, self._optimizer, self._bank = network, optimizer, bank
        self._steps_per_epoch = steps_per_epoch
        self._interval = max(1, round(settings.checkpoint_every * steps_per_epoch))

    def after_step(self, step: int, metrics: EpochMetrics) -> None:
        """Saves in the middle of an epoch where it is time, with the epoch's figures so far."""
        if step % self._interval or step % self._steps_per_epoch == 0:
            return
        began = time.perf_counter()
        # On all ranks: the sums of this epoch travel.
        carried = metrics.state_dict()
        if rank() == 0:
            tensors, state = pack(self._network, self._optimizer, self._bank, self._settings, self._history)
            tensors |= {f"epoch.{name}": value for name, value in carried.items()}
            self._save(step, tensors, {**state, "finished": False}, None)
        barrier()
        metrics.left_out(time.perf_counter() - began)

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        """Takes an epoch's figures into the history, and saves where it is time."""
        self._history.append(figures)
        finished = step == self._settings.epochs * self._steps_per_epoch
        value = figures.get("val_H")
        if rank() == 0 and (finished or step % self._interval == 0 or self._among_best(value)):
            tensors, state = pack(self._network, self._optimizer, self._bank, self._settings, self._history)
            self._save(step, tensors, {**state, "finished": finished}, value)
        barrier()

    def _among_best(self, value: float | None) -> bool:
        return value is not None and self._checkpoints.would_keep(value)

    def _save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], value: float | None) -> None:
        epoch, position = divmod(step, self._steps_per_epoch)
        place = {"epoch": epoch, "position": position, "steps_per_epoch": self._steps_per_epoch}
        self._checkpoints.save(step, tensors, {**place, **state}, value)

"""What an epoch looked like: loss terms, used clusters, speed."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from vgse.clustering.collectives import all_sum, rank
from vgse.clustering.objective import SMALLEST, TERMS, Losses


class EpochMetrics:
    """Sums over the steps of one epoch; nothing is read back from the device before `result`."""

    def __init__(self, num_clusters: int, device: torch.device) -> None:
        self._loss_sums = torch.zeros(len(TERMS) + 1, dtype=torch.float64, device=device)
        self._rows = torch.zeros((), dtype=torch.float64, device=device)
        self._rows_of_K = torch.zeros(num_clusters, dtype=torch.float64, device=device)
        self._entropy = torch.zeros((), dtype=torch.float64, device=device)
        self._started = time.perf_counter()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Adds time spent waiting for data."""
        self._waited += seconds

    def left_out(self, seconds: float) -> None:
        """Takes time out of the epoch that was not spent on training, such as writing a checkpoint."""
        self._started += seconds

    @torch.no_grad()
    def add(self, losses: Losses, a_BK: Tensor) -> None:
        """Adds a step: the losses are of the global batch already, the assignments are this rank's."""
        values = torch.stack([losses.total.detach(), *(getattr(losses, term) for term in TERMS)])
        self._loss_sums += values.double() * losses.rows
        self._rows += losses.rows
        self._rows_of_K += torch.bincount(a_BK.argmax(dim=1), minlength=len(self._rows_of_K))
        # torch.special.entr is several times slower; a probability of 0 counts 0 either way.
        self._entropy -= (a_BK * a_BK.clamp_min(SMALLEST).log()).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """The sums so far over all ranks; all of them call this together."""
        usage = all_sum(torch.cat([self._rows_of_K, self._entropy[None]]))
        times = torch.tensor([time.perf_counter() - self._started, self._waited], dtype=torch.float64)
        return {"losses": self._loss_sums, "rows": self._rows, "usage": usage, "times": times}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state_dict` gave, on any number of ranks."""
        self._loss_sums.copy_(state["losses"])
        self._rows.copy_(state["rows"])
        seconds, self._waited = state["times"].tolist()
        self._started = time.perf_counter() - seconds
        # Each rank counts its own assignments, and they are added up in the end: one of them takes those so far.
        if rank() == 0:
            self._rows_of_K.copy_(state["usage"][:-1])
            self._entropy.copy_(state["usage"][-1])

    def result(self) -> dict[str, float]:
        """Figures of the global epoch; entropies in nats (log K where all clusters are alike).

        `used_clusters` have at least one row whose assignment is largest there; `cluster_entropy` is that of the rows
        per cluster, `assignment_entropy` the mean entropy of a row's assignment (near 0: confident).
        """
        usage = all_sum(torch.cat([self._rows_of_K, self._entropy[None]]))
        share_K = usage[:-1] / self._rows
        seconds = time.perf_counter() - self._started
        means = (self._loss_sums / self._rows).tolist()
        rows = float(self._rows)
        return {
            "loss": means[0],
            **{f"loss_{term}": value for term, value in zip(TERMS, means[1:], strict=True)},
            "used_clusters": int((share_K > 0).sum()),
            "cluster_entropy": float(torch.special.entr(share_K).sum()),
            "cluster_entropy_max": math.log(len(share_K)),
            "assignment_entropy": float(usage[-1]) / rows,
            "rows": int(rows),
            "seconds": seconds,
            "rows_per_s": rows / seconds,
            "wait_share": self._waited / seconds,
        }

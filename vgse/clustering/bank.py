"""Candidate neighbours for L_clu: the last M patches seen, with their assignments.

Why a bank and not an exact index: the nearest patches of the whole set cost a search over N patches per epoch (and
a new index whenever the backbone moves), while the nearest of the last M patches cost one matrix product, need no
memory beyond M rows, and follow a moving backbone. They are somewhat farther away: on 23,040 CIFAR-100 patches a bank
of 4096 ends with the objective 0.7 % above that of exact neighbours (random ones: 10 %), more than seeds differ by;
used clusters, T1 and H are the same within noise, but so they are with random neighbours
(benchmarks/results/neighbours.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vgse.clustering.collectives import gather_rows, world_size
from vgse.clustering.precision import fast_bf16

# A bank that spans two epochs may hold the query itself; it is no neighbour.
_SAME = 1 - 1e-5
# A search in bfloat16 (8 bits) gives such a row at least this cosine, since inputs and result are each off by at most
# 2^-9 of themselves; only rows above it are looked at more closely.
_CLOSE = 0.99
# Multiply-adds per query from which a search in bfloat16 pays, where the hardware has it. On patch features (F = 1280,
# 2048 rows) it finds 98.6 % of the five nearest that float32 finds.
_LARGE = 2**18


class NeighbourBank:
    """First-in-first-out store of (L2-normalised feature, assignment), the same on all ranks.

    Args:
        capacity: rows M; at most the rows of an epoch, so that a row is in it at most once.
        feature_dim: F.
        num_clusters: K.
        device: where the rows lie.
    """

    def __init__(self, capacity: int, feature_dim: int, num_clusters: int, device: torch.device | str = "cpu") -> None:
        self.capacity, self.feature_dim = capacity, feature_dim
        self._features_MF = torch.zeros(capacity, feature_dim, device=device)
        coarse = capacity * feature_dim >= _LARGE and fast_bf16(self._features_MF.device)
        self._coarse_MF = torch.zeros_like(self._features_MF, dtype=torch.bfloat16) if coarse else None
        self._a_MK = torch.zeros(capacity, num_clusters, device=device)
        self._written = 0

    def __len__(self) -> int:
        return min(self._written, self.capacity)

    @torch.no_grad()
    def neighbours(self, unit_BF: Tensor, k: int) -> Tensor:
        """Assignments of each row's k nearest stored rows by cosine, (B, k', K); k' < k while fewer are stored.

        Args:
            unit_BF: rows as `unit` makes them.
            k: so many.
        """
        stored = len(self)
        take = min(k, stored - 1)
        if take <= 0:
            return self._a_MK.new_zeros(len(unit_BF), 0, self._a_MK.shape[1])
        cosine_Bk, index_Bk = self._nearest(unit_BF, stored, take + 1)
        return self._a_MK[self._without_itself(unit_BF, cosine_Bk[:, 0], index_Bk)]

    def _nearest(self, unit_BF: Tensor, stored: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosines and positions of the `count` nearest stored rows, each (B, count), nearest first."""
        if self._coarse_MF is None:
            return (unit_BF @ self._features_MF[:stored].T).topk(count, dim=1)
        return (unit_BF.bfloat16() @ self._coarse_MF[:stored].T).topk(count, dim=1)

    def _without_itself(self, unit_BF: Tensor, cosine_B: Tensor, index_Bk: Tensor) -> Tensor:
        """The positions but for the row itself where it is the nearest stored row, else but for the last."""
        # To tell which rows are close a GPU would have to be waited for; there all are looked at.
        rows = slice(None) if unit_BF.is_cuda else (cosine_B > _CLOSE).nonzero()[:, 0]
        found = index_Bk[rows]
        exact = (unit_BF[rows] * self._features_MF[found[:, 0]]).sum(dim=1)
        kept = index_Bk[:, :-1]
        kept[rows] = torch.where((exact > _SAME)[:, None], found[:, 1:], found[:, :-1])
        return kept

    @torch.no_grad()
    def push(self, unit_BF: Tensor, a_BK: Tensor) -> None:
        """Appends all ranks' rows (`unit_BF` as `unit` makes them) in rank order; the oldest rows leave."""
        unit_NF, a_NK = self._gathered(unit_BF, a_BK.detach())
        for place, rows in self._places(len(unit_NF)):
            self._features_MF[place], self._a_MK[place] = unit_NF[rows], a_NK[rows]
            if self._coarse_MF is not None:
                self._coarse_MF[place] = unit_NF[rows]
        self._written += len(unit_NF)

    def _gathered(self, unit_BF: Tensor, a_BK: Tensor) -> tuple[Tensor, Tensor]:
        if world_size() == 1:
            return unit_BF, a_BK
        rows = gather_rows(torch.cat([unit_BF, a_BK.to(unit_BF.dtype)], dim=1))
        return rows[:, : self.feature_dim], rows[:, self.feature_dim :]

    def _places(self, count: int) -> Iterator[tuple[slice, slice]]:
        """Where the last `capacity` of `count` new rows go, as pairs of slices of the bank and of the new rows."""
        row = max(0, count - self.capacity)
        while row < count:
            place = (self._written + row) % self.capacity
            fit = min(count - row, self.capacity - place)
            yield slice(place, place + fit), slice(row, row + fit)
            row += fit

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that restore the bank with `load_state_dict`."""
        return {
            "features_MF": self._features_MF[: len(self)],
            "a_MK": self._a_MK[: len(self)],
            "written": torch.tensor(self._written),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes the rows of another bank of the same capacity and dimensions."""
        stored = len(state["a_MK"])
        self._features_MF[:stored] = state["features_MF"].to(self._features_MF.device)
        if self._coarse_MF is not None:
            self._coarse_MF[:stored] = self._features_MF[:stored].bfloat16()
        self._a_MK[:stored] = state["a_MK"].to(self._a_MK.device)
        self._written = int(state["written"])


def unit(features_BF: Tensor) -> Tensor:
    """Rows (B, F) of length 1 in float32, without a graph: what the bank compares and stores."""
    return functional.normalize(features_BF.detach().float(), dim=1)

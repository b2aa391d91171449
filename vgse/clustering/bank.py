"""Candidate neighbours for L_clu: the last M patches seen, with their assignments.

Why a bank and not an exact index: the nearest patches of the whole set cost a search over N patches per epoch (and
a new index whenever the backbone moves), while the nearest of the last M patches cost one matrix product, need no
memory beyond M rows, and follow a moving backbone. They are somewhat farther away: on 23,040 CIFAR-100 patches a bank
of 4096 ends with the objective 0.7 % above that of exact neighbours (random ones: 10 %), more than seeds differ by;
used clusters, T1 and H are the same within noise, but so they are with random neighbours
(benchmarks/results/neighbours.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vgse.clustering.collectives import gather_rows
from vgse.clustering.precision import fast_bf16

# A bank that spans two epochs may hold the query itself; it is no neighbour.
_SAME = 1 - 1e-5
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
    def neighbours(self, features_BF: Tensor, k: int) -> Tensor:
        """Assignments of each row's k nearest stored rows by cosine, (B, k', K); k' < k while fewer are stored."""
        stored = len(self)
        take = min(k, stored - 1)
        if take <= 0:
            return self._a_MK.new_zeros(len(features_BF), 0, self._a_MK.shape[1])
        query_BF = _unit(features_BF)
        index = self._nearest(query_BF, stored, take + 1)
        first_B = (query_BF * self._features_MF[index[:, 0]]).sum(dim=1)
        shift_B1 = (first_B > _SAME).long()[:, None]
        index_Bk = index.gather(1, torch.arange(take, device=index.device) + shift_B1)
        return self._a_MK[index_Bk]

    def _nearest(self, query_BF: Tensor, stored: int, count: int) -> Tensor:
        """Positions of the `count` nearest stored rows (B, count), nearest first."""
        if self._coarse_MF is None:
            return (query_BF @ self._features_MF[:stored].T).topk(count, dim=1).indices
        return (query_BF.bfloat16() @ self._coarse_MF[:stored].T).topk(count, dim=1).indices

    @torch.no_grad()
    def push(self, features_BF: Tensor, a_BK: Tensor) -> None:
        """Appends all ranks' rows in rank order; the oldest rows leave."""
        rows = gather_rows(torch.cat([_unit(features_BF), a_BK.detach().to(self._a_MK.dtype)], dim=1))
        skipped = max(0, len(rows) - self.capacity)
        start, rows = self._written + skipped, rows[skipped:]
        at = (start + torch.arange(len(rows), device=rows.device)) % self.capacity
        self._features_MF[at], self._a_MK[at] = rows[:, : self.feature_dim], rows[:, self.feature_dim :]
        if self._coarse_MF is not None:
            self._coarse_MF[at] = rows[:, : self.feature_dim].bfloat16()
        self._written = start + len(rows)

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


def _unit(features_BF: Tensor) -> Tensor:
    return functional.normalize(features_BF.detach().float(), dim=1)

"""Where training rows come from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """This rank's rows of a global batch: features (B, F) or pixels (B, H, W, 3) uint8, and seen-class indices (B,)."""

    inputs: Tensor
    labels_B: Tensor


class Rows(Protocol):
    """A matrix of rows: an array, a memory map, or anything that gathers rows by an array of row numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class BatchSource(Protocol):
    """This rank's part of every epoch. All ranks give the same number of batches; a batch may have no rows."""

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's rows of every global batch of epoch `epoch` (from 0), from its step `first_step` on."""
        ...


def one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each put together while the caller computes on the one before."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


class InMemoryBatches:
    """Features held in memory (or a memory map), in an order that depends on seed and epoch only.

    Global batch b is `permutation[b * global_batch : (b + 1) * global_batch]`; a rank takes a contiguous slice of it.
    So every row comes once per epoch, none is lost, and a run continued on another number of ranks sees the same
    global batches.

    Args:
        features_NF: any float type, gathered batch by batch and read as float32.
        labels_N: seen-class index of every row.
        global_batch: rows per step over all ranks.
        rank: this rank.
        world_size: number of ranks.
        seed: of the permutations.
        ahead: whether a batch is gathered while the one before is computed on. That hides reading, and gathering where
            a GPU computes; where the rows are in memory and these CPUs compute, the thread that gathers takes a core
            from those that compute.
    """

    def __init__(
        self,
        features_NF: Rows,
        labels_N: np.ndarray,
        global_batch: int,
        rank: int,
        world_size: int,
        seed: int,
        *,
        ahead: bool = True,
    ) -> None:
        if len(features_NF) != len(labels_N):
            raise ValueError(f"{len(features_NF)} rows of features, but {len(labels_N)} labels")
        if len(labels_N) == 0 or global_batch < 1 or not 0 <= rank < world_size:
            raise ValueError(f"{len(labels_N)} rows, global_batch {global_batch}, rank {rank} of {world_size}")
        self._features_NF, self._labels_N = features_NF, np.asarray(labels_N, dtype=np.int64)
        self._global_batch, self._rank, self._world_size, self._seed = global_batch, rank, world_size, seed
        self._ahead = ahead
        # PyTorch gathers and widens by all threads, ten times as fast as NumPy; it takes no read-only memory map.
        in_memory = isinstance(features_NF, np.ndarray) and features_NF.flags.writeable
        self._tensor_NF = torch.from_numpy(features_NF) if in_memory else None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch; the last one may be smaller."""
        return -(-len(self._labels_N) // self._global_batch)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's rows of every global batch of `epoch` from `first_step` on; what is skipped is not read."""
        batches = (self._batch(rows) for rows in self.row_numbers(epoch, first_step))
        return one_ahead(batches) if self._ahead else batches

    def _batch(self, rows: np.ndarray) -> Batch:
        if self._tensor_NF is not None:
            inputs = self._tensor_NF.index_select(0, torch.from_numpy(rows)).float()
        else:
            inputs = torch.from_numpy(np.asarray(self._features_NF[rows], dtype=np.float32))
        return Batch(inputs, torch.from_numpy(self._labels_N[rows]))

    def row_numbers(self, epoch: int, first_step: int = 0) -> Iterator[np.ndarray]:
        """Row numbers of this rank's part of every global batch of `epoch` from `first_step` on."""
        order_N = np.random.default_rng((self._seed, epoch)).permutation(len(self._labels_N))
        for start in range(first_step * self._global_batch, len(order_N), self._global_batch):
            batch = order_N[start : start + self._global_batch]
            first, last = (len(batch) * r // self._world_size for r in (self._rank, self._rank + 1))
            yield batch[first:last]

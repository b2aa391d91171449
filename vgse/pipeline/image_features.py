"""What the evaluation sees of an image: its whole-image feature, its mean patch feature, or both joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vgse.pipeline.features import feature_name, open_arrays
from vgse.pipeline.plan import Plan
from vgse.storage import Storage, join
from vgse.zsl.features import l2_rows

_ARRAYS = {"whole": ("whole",), "patches": ("patch_mean",), "both": ("whole", "patch_mean")}


class ImageFeatures:
    """Features of chosen images across shards, gathered by row; shards are mapped, so rows are paged in as used.

    Behaves like an array (N, F) float32 for `len`, `shape`, `size` and indexing with a slice or integer array. It
    pickles as locations; each process maps the files itself, so workers of one machine share their pages.

    Args:
        storage: where the shards are.
        uris: the feature shards.
        shard_N, row_N: for each image, its shard and its row there.
        kind: whole, patches or both; both are L2-normalised each before they are joined.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self, storage: Storage, uris: Sequence[str], shard_N: np.ndarray, row_N: np.ndarray, kind: str
    ) -> None:
        self._storage, self._uris, self._shard, self._row = storage, list(uris), shard_N, row_N
        self._names = _ARRAYS[kind]
        self._opened: dict[int, Mapping[str, np.ndarray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __len__(self) -> int:
        return len(self._shard)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        first = int(self._shard[0]) if len(self._shard) else 0
        return len(self), sum(self._arrays(first)[name].shape[1] for name in self._names)

    @property
    def size(self) -> int:
        """N F."""
        return self.shape[0] * self.shape[1]

    @property
    def source(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The shards, and what of them is joined: equal for features that differ in the chosen images only."""
        return tuple(self._uris), self._names

    @property
    def numbers(self) -> np.ndarray:
        """A number for each image that is its own among all images of the same source, int64 (N,)."""
        return (self._shard.astype(np.int64) << 32) + self._row

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        shard, row = self._shard[rows], self._row[rows]
        out = np.empty((len(row), self.shape[1]), self.dtype)
        for number in np.unique(shard):
            here = shard == number
            arrays = self._arrays(int(number))
            out[here] = _joined([arrays[name][row[here]] for name in self._names])
        return out

    def _arrays(self, number: int) -> Mapping[str, np.ndarray]:
        if number not in self._opened:
            self._opened[number] = open_arrays(self._storage.local_copy(self._uris[number]))
        return self._opened[number]


def image_features(
    plan: Plan, frame: pd.DataFrame, folder: str, chosen: np.ndarray, kind: str | None = None
) -> ImageFeatures:
    """The features of the images `chosen` (bool over `frame`, the committed images in shard order) from `folder`.

    Of the kind that the evaluation asks for, or of another `kind`, which must be among those written.
    """
    number, names = pd.factorize(frame.shard)
    row = pd.Series(np.arange(len(frame))).groupby(number).cumcount().to_numpy()
    uris = [join(folder, feature_name(name)) for name in names]
    return ImageFeatures(plan.storage, uris, number[chosen], row[chosen], kind or plan.config.evaluate.features)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0].astype(np.float32)
    # Each part has the same say, whatever the lengths of its features.
    return np.concatenate([l2_rows(part) for part in parts], axis=1)

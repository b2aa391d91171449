"""Feature shards: what they hold, who gets patch features, and reading them back.

Beside `patches/part-NNNNN.parquet`, in the same row order, float16: `features/patches/part-NNNNN.safetensors` with
`patches` (m, T, F) and `patch_rows` (m,) of the images that training wants, and
`features/images/part-NNNNN.safetensors` with `whole` and `patch_mean` (n, F), those that the evaluation asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from vgse.pipeline.plan import Plan, Problem
from vgse.storage import Storage

# The folders of feature shards.
PARTS = ("patches", "images")


def feature_name(shard: str) -> str:
    """The feature shard beside a patch shard."""
    return shard.replace(".parquet", ".safetensors")


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a safetensors file."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped rather than read: rows are paged in as they are used."""
    types = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, dtype = tuple(entry["shape"]), types[entry["dtype"]]
        offset = 8 + length + entry["data_offsets"][0]
        empty = 0 in shape
        arrays[name] = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", offset, shape)
    return arrays


def patches_wanted(frame: pd.DataFrame, plan: Plan) -> np.ndarray:
    """Which images' patches are encoded: training images of every class that is seen in some split, and the first few
    training images of the others, for the oracle arm only. Bool (N,)."""
    training = (frame.role == "train").to_numpy()
    return training & (
        frame.class_name.isin(plan.seen_somewhere).to_numpy()
        | (frame["rank"] < plan.config.encode.oracle_images).to_numpy()
    )


def training_rows(frame: pd.DataFrame, problem: Problem, plan: Plan) -> np.ndarray:
    """Which images a problem's clustering and zero-shot models are fitted on. Bool (N,).

    While choices are made, a share of every class's training images stands aside as the seen test images.
    """
    mine = ((frame.role == "train") & frame.class_name.isin(problem.seen)).to_numpy()
    return mine & ~kept_aside(frame, plan) if problem.phase == "choice" else mine


def kept_aside(frame: pd.DataFrame, plan: Plan) -> np.ndarray:
    """Training images that play the seen test images while choices are made: the first of each class by rank."""
    count = frame[frame.role == "train"].groupby("class_name").size()
    first = np.maximum(1, np.floor(frame.class_name.map(count).fillna(0) * plan.config.evaluate.choice_held_out))
    first = np.minimum(first, plan.config.evaluate.choice_images or np.inf)
    return ((frame.role == "train") & (frame["rank"] < first)).to_numpy()


def episode_rows(frame: pd.DataFrame, problem: Problem, plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which images train, test seen and test unseen classes of a problem. Three bool (N,), disjoint.

    Choices use training images only: test images of any class, and all images of unseen classes, are out of reach.
    """
    seen, unseen = (frame.class_name.isin(names).to_numpy() for names in (problem.seen, problem.unseen))
    training = (frame.role == "train").to_numpy()
    if problem.phase == "choice":
        judged = (frame["rank"] < (plan.config.evaluate.choice_images or np.inf)).to_numpy()
        return training_rows(frame, problem, plan), kept_aside(frame, plan) & seen, training & unseen & judged
    return training_rows(frame, problem, plan), ~training & seen, unseen


class PatchFeatures:
    """Patch features of chosen images across shards, one row per patch, gathered by row number.

    Behaves like an array (N * T, F) for `len`, `shape` and indexing with an integer array. It pickles as locations;
    each process maps the files itself, so workers of one machine share their pages.

    Args:
        storage: where the shards are.
        uris: the feature shards.
        shard_I, offset_I: for each chosen image, its shard and its position in that shard's `patches`.
        patches: patches per image T.
    """

    ndim = 2
    dtype = np.dtype(np.float16)

    def __init__(
        self, storage: Storage, uris: list[str], shard_I: np.ndarray, offset_I: np.ndarray, patches: int
    ) -> None:
        self._storage, self._uris = storage, uris
        self._shard, self._offset, self._patches = shard_I, offset_I, patches
        self._opened: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __len__(self) -> int:
        return len(self._shard) * self._patches

    @property
    def shape(self) -> tuple[int, int]:
        """(N * T, F)."""
        return len(self), int(self._array(int(self._shard[0])).shape[2])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        image, patch = np.divmod(np.asarray(rows), self._patches)
        shard = self._shard[image]
        out = np.empty((len(image), self.shape[1]), self.dtype)
        for number in np.unique(shard):
            here = shard == number
            out[here] = self._array(int(number))[self._offset[image[here]], patch[here]]
        return out

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take in memory."""
        return len(self) * self.shape[1] * self.dtype.itemsize

    def read_all(self) -> np.ndarray:
        """All rows in memory (N * T, F) float16, each shard read from its beginning to its end."""
        out_NTF = np.empty((len(self._shard), self._patches, self.shape[1]), self.dtype)
        for number in np.unique(self._shard):
            here = np.flatnonzero(self._shard == number)
            here = here[self._offset[here].argsort(kind="stable")]
            out_NTF[here] = self._array(int(number))[self._offset[here]]
        return out_NTF.reshape(-1, self.shape[1])

    def _array(self, number: int) -> np.ndarray:
        if number not in self._opened:
            self._opened[number] = open_arrays(self._storage.local_copy(self._uris[number]))["patches"]
        return self._opened[number]


def held_rows(features: PatchFeatures, share: int) -> tuple[np.ndarray | PatchFeatures, str]:
    """The features in memory where they take at most `share` bytes, else as they are, and a sentence that says so.

    Every worker holds all of them: the rows of a batch are drawn from everywhere, so each worker meets every row sooner
    or later. Where they do not fit, rows are paged in from the shards, which workers of a machine share.
    """
    size = f"{features.nbytes / 1e9:.2f} GB of patch features"
    if features.nbytes <= share:
        return features.read_all(), f"{size} held in memory by each worker"
    return features, f"{size} read from the shards as needed: a worker's share of the memory is {share / 1e9:.2f} GB"


def patch_features(plan: Plan, frame: pd.DataFrame, chosen: np.ndarray) -> PatchFeatures:
    """The patch features of the images `chosen` (bool over `frame`, the committed images in shard order)."""
    wanted = patches_wanted(frame, plan)
    assert not (chosen & ~wanted).any(), "an image whose patches are needed has no patch features"
    number, names = pd.factorize(frame.shard)
    position = wanted.astype(np.int64).cumsum() - 1
    first = pd.Series(position + ~wanted).groupby(number).transform("min").to_numpy()
    uris = [plan.uri("features", "patches", feature_name(name)) for name in names]
    return PatchFeatures(plan.storage, uris, number[chosen], (position - first)[chosen], plan.config.crop.patches)

"""One worker of encode: patch shards to feature shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vgse.config import Config
from vgse.pipeline.backbone import encode_pixels, weights_path
from vgse.pipeline.features import feature_name, open_arrays, pack
from vgse.pipeline.pixels import pixel_chunks
from vgse.storage import Storage, join


@dataclass(frozen=True)
class EncodeTask:
    """What to encode with, and at which sides in pixels (None: the backbone's own).

    `patch_means` says whether the evaluation reads the mean of an image's patch features, `whole` whether the whole
    image's.
    """

    backbone: str
    weights: str
    patch_size: int | None
    image_size: int | None
    batch_size: int
    whole: bool
    patch_means: bool

    @classmethod
    def of(cls, config: Config) -> EncodeTask:
        """The task a configuration asks for."""
        encode, evaluate = config.encode, config.evaluate
        return cls(
            encode.backbone,
            encode.weights,
            encode.input_size,
            evaluate.input_size or encode.input_size,
            encode.batch_size,
            evaluate.features != "patches",
            evaluate.features != "whole",
        )


class EncodeShard:
    """A worker that holds the backbone and turns patch shards into feature shards.

    Args:
        storage, run: where the run directory is.
        task: see `EncodeTask`.
        threads: threads to cut and compute with.
        board: where typed errors go.
    """

    def __init__(self, storage: Storage, run: str, task: EncodeTask, threads: int, board: Any) -> None:
        import torch

        from vgse.clustering.backbones import build_backbone
        from vgse.pipeline.session import keep_freed_memory, limit_threads

        keep_freed_memory()
        limit_threads(threads)
        self._storage, self._run, self._task, self._threads = storage, run, task, threads
        self._board = board
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        networks = {}
        with board.reporting():
            for size in {task.patch_size, task.image_size}:
                network = build_backbone(
                    task.backbone,
                    weights=weights_path(storage, task.weights),
                    pretrained=task.weights == "pretrained",
                    input_size=size,
                )
                networks[size] = network.eval().to(self._device)
        self._for_patches, self._for_images = networks[task.patch_size], networks[task.image_size]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encodes the shards named in `batch`; a row says how many images each held."""
        with self._board.reporting():
            rows = [self._shard(entry["shard"], np.array(entry["wanted"], bool)) for entry in batch.to_pylist()]
        self._board.served()
        return pa.table({"rows": rows})

    def _shard(self, name: str, wanted: np.ndarray) -> int:
        shard = self._storage.read_table(join(self._run, "patches", name), ["image", "boxes"])
        patches_at, images_at = (
            join(self._run, "features", part, feature_name(name)) for part in ("patches", "images")
        )
        rows = np.flatnonzero(wanted)
        if self._storage.exists(patches_at):
            patches_MTF = np.asarray(open_arrays(self._storage.local_copy(patches_at))["patches"])
        else:
            patches_MTF = self._patches(self._for_patches, shard, wanted, lambda features_MTF: features_MTF)
            self._storage.write_bytes(patches_at, pack({"patches": patches_MTF, "patch_rows": rows}))
        if not self._storage.exists(images_at):
            arrays = {}
            if self._task.whole:
                arrays["whole"] = self._whole(shard)
            if self._task.patch_means:
                arrays["patch_mean"] = self._patch_means(shard, wanted, patches_MTF)
            self._storage.write_bytes(images_at, pack(arrays))
        return shard.num_rows

    def _whole(self, shard: pa.Table) -> np.ndarray:
        """Features of the whole images (n, F) float16."""
        network, every, nothing = self._for_images, [True] * shard.num_rows, [False] * shard.num_rows
        chunks = pixel_chunks(
            shard,
            size=network.spec.input_size,
            whole=every,
            patches=nothing,
            images=self._task.batch_size,
            threads=self._threads,
        )
        return np.concatenate([encode_pixels(network, chunk.pixels, self._device) for chunk in chunks])

    def _patch_means(self, shard: pa.Table, wanted: np.ndarray, patches_MTF: np.ndarray) -> np.ndarray:
        """Mean patch feature of every image (n, F) float16; patches encoded for training at this size are reused."""
        same = self._for_images.spec.input_size == self._for_patches.spec.input_size
        todo = ~wanted if same else np.ones_like(wanted)
        out_NF = np.empty((shard.num_rows, self._for_images.spec.feature_dim), np.float16)
        if same:
            out_NF[wanted] = _mean_patch(patches_MTF)
        out_NF[todo] = self._patches(self._for_images, shard, todo, _mean_patch)
        return out_NF

    def _patches(self, network: Any, shard: pa.Table, wanted: np.ndarray, reduce: Any) -> np.ndarray:
        """What `reduce` makes of the patch features (M, T, F) of the wanted images, chunk by chunk."""
        patches = len(shard["boxes"][0]) // 4
        chunks: Iterator[Any] = pixel_chunks(
            shard,
            size=network.spec.input_size,
            whole=[False] * shard.num_rows,
            patches=wanted.tolist(),
            images=max(1, self._task.batch_size // patches),
            threads=self._threads,
        )
        dim = network.spec.feature_dim
        parts = [reduce(np.empty((0, patches, dim), np.float16))]
        for chunk in chunks:
            features = encode_pixels(network, chunk.pixels, self._device)
            parts.append(reduce(features.reshape(len(chunk.patch_rows), patches, dim)))
        return np.concatenate(parts)


def _mean_patch(features_MTF: np.ndarray) -> np.ndarray:
    return features_MTF.astype(np.float32).mean(axis=1).astype(np.float16)

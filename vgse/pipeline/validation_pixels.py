"""Validation in finetune mode: a few images a class, encoded anew with the network as it stands, by all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.pipeline.backbone import encode_pixels
from vgse.pipeline.pixels import pixel_chunks
from vgse.pipeline.plan import Plan
from vgse.storage import Storage, join


@dataclass(frozen=True)
class PixelImages:
    """N images in the order of their shards: where they lie, their class row, and the part that they belong to.

    `part_N` is 0 for the training images (whose patches make the seen embeddings), 1 for test images of seen classes,
    2 for those of unseen (val) classes.
    """

    folder: str
    shards: tuple[str, ...]
    shard_N: np.ndarray
    row_N: np.ndarray
    labels_N: np.ndarray
    part_N: np.ndarray
    num_seen: int
    batch: int

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: np.ndarray, parts: tuple[np.ndarray, ...], plan: Plan) -> PixelImages:
        """The images of the three `parts`, disjoint bool masks over `frame` (committed images in shard order)."""
        number, names = pd.factorize(frame.shard)
        row = pd.Series(np.arange(len(frame))).groupby(number).cumcount().to_numpy()
        chosen = np.logical_or.reduce(parts)
        part = np.select(parts, range(len(parts)), -1)[chosen]
        num_seen = len(np.unique(labels[parts[0]]))
        return cls(
            plan.uri("patches"), tuple(names), number[chosen], row[chosen], labels[chosen], part, num_seen,
            plan.config.encode.batch_size,
        )  # fmt: skip

    def rows_of_parts(self) -> Iterator[np.ndarray]:
        """Row numbers of the three parts."""
        for part in range(3):
            yield np.flatnonzero(self.part_N == part)


def encoded_by_all(
    images: PixelImages, network: Any, storage: Storage, threads: int
) -> tuple[np.ndarray, ClassEmbeddingSums]:
    """Whole-image features (N, F) float16 on all ranks, and sums of this rank's share of the training images.

    Every rank encodes a stretch of the images, so that it reads few shards, and all share the features.
    """
    import torch

    from vgse.clustering.collectives import gather_rows, rank, world_size

    device = next(network.parameters()).device
    first, last = (len(images.shard_N) * r // world_size() for r in (rank(), rank() + 1))
    sums = ClassEmbeddingSums(images.num_seen, network.num_clusters)
    parts = [np.empty((0, network.feature_dim), np.float16)]
    for shard in np.unique(images.shard_N[first:last]):
        here = first + np.flatnonzero(images.shard_N[first:last] == shard)
        parts += _encoded(images, here, network, device, storage, threads, sums)
    features = gather_rows(torch.from_numpy(np.concatenate(parts)).to(device))
    return features.cpu().numpy(), sums


def _encoded(
    images: PixelImages, here: np.ndarray, network: Any, device: Any, storage: Storage, threads: int,
    sums: ClassEmbeddingSums,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Whole-image features of the images `here` of one shard, chunk by chunk; their patches go into `sums`."""
    import torch

    table = storage.read_table(join(images.folder, images.shards[images.shard_N[here[0]]]), ["image", "boxes"])
    whole, patched, labels = (np.zeros(table.num_rows, kind) for kind in (bool, bool, np.int64))
    whole[images.row_N[here]] = True
    patched[images.row_N[here]] = images.part_N[here] == 0
    labels[images.row_N[here]] = images.labels_N[here]
    chunks = pixel_chunks(
        table,
        size=network.backbone.spec.input_size,
        whole=whole.tolist(),
        patches=patched.tolist(),
        images=max(1, images.batch // 10),
        threads=threads,
    )
    for chunk in chunks:
        features = encode_pixels(network.backbone, chunk.pixels, device)
        wholes, rows = len(chunk.whole_rows), chunk.patch_rows
        yield features[:wholes]
        if len(rows):
            with torch.inference_mode():
                a_BK = network.heads(torch.from_numpy(features[wholes:]).to(device)).a_BK.double().cpu().numpy()
            sums.add(a_BK.reshape(len(rows), -1, a_BK.shape[1]), labels[rows])

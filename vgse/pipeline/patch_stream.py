"""Patches streamed as pixels into the training workers (finetune): Ray Data tasks cut them from the patch shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.clustering.backbones import backbone_spec
from vgse.clustering.batches import Batch
from vgse.pipeline.pixels import pixel_chunks
from vgse.pipeline.plan import Plan
from vgse.storage import Storage, join

# Images cut per block: small blocks keep the object store flat (9 patches of 224 x 224 are 1.4 MB an image).
_IMAGES_PER_BLOCK = 32


def patch_dataset(plan: Plan, frame: pd.DataFrame, chosen: np.ndarray) -> Any:
    """A Ray dataset of single patches, `pixels` (size, size, 3) uint8 and `label`.

    Args:
        plan: the run.
        frame: committed images in shard order, with `label` (the seen-class index, missing for other classes).
        chosen: which of them to train on.
    """
    import ray

    encode = plan.config.encode
    size = backbone_spec(encode.backbone, input_size=encode.input_size).input_size
    labels = frame.label.where(chosen, -1).fillna(-1).astype(np.int64)
    blocks = [
        pa.table({"shard": [name], "labels": [labels[rows.index].tolist()]})
        for name, rows in frame.groupby("shard", sort=False)
    ]
    work = partial(_cut, storage=plan.storage, run=plan.run, size=size, seed=plan.config.seed)
    # A fraction of a CPU, so that cutting is never starved by the workers' whole ones.
    return ray.data.from_arrow(blocks).map_batches(work, batch_size=1, batch_format="pyarrow", num_cpus=0.5)


def _cut(batch: pa.Table, *, storage: Storage, run: str, size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    import cv2

    cv2.setNumThreads(1)
    for entry in batch.to_pylist():
        table = storage.read_table(join(run, "patches", entry["shard"]), ["image", "boxes"])
        labels = np.array(entry["labels"])
        wanted = (labels >= 0).tolist()
        rng = np.random.default_rng(seed)
        nothing = [False] * len(wanted)
        for chunk in pixel_chunks(table, size=size, whole=nothing, patches=wanted, images=_IMAGES_PER_BLOCK, threads=1):
            patches = len(chunk.pixels) // len(chunk.patch_rows)
            order = rng.permutation(len(chunk.pixels))
            yield {
                "pixels": chunk.pixels[order],
                "label": np.repeat(labels[chunk.patch_rows], patches)[order],
            }


class StreamedBatches:
    """This rank's part of a stream that Ray Data splits evenly over the ranks.

    Args:
        shard: the rank's data iterator.
        rows: patches in all; the split leaves out the few that do not divide by the number of ranks.
        global_batch: patches per step over all ranks.
        world_size: number of ranks.
        seed: of the shuffling.
    """

    def __init__(self, shard: Any, rows: int, global_batch: int, world_size: int, seed: int) -> None:
        self._shard, self._seed = shard, seed
        self._batch = max(1, global_batch // world_size)
        self._rows = rows // world_size

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch."""
        return -(-self._rows // self._batch)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's rows of the global batches of `epoch`, without the first `first_step`."""
        stream = self._shard.iter_torch_batches(
            batch_size=self._batch,
            prefetch_batches=2,
            # Patches of one image follow each other in the stream; a buffer of several batches takes them apart.
            local_shuffle_buffer_size=4 * self._batch,
            local_shuffle_seed=self._seed + epoch,
        )
        for batch in islice(stream, first_step, None):
            yield Batch(batch["pixels"], batch["label"])

"""Cutting the windows of `vgse.clustering.patch_order` into pixels, in Ray Data tasks next to the storage."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.clustering.patch_order import WINDOW, PatchOrder
from vgse.patches import cut_patches, decode_stored, draw_views, move_boxes, recolour
from vgse.storage import Storage, join

# Windows per task: enough to be worth starting one, few enough that its pixels (22 MB a window of 16 images with 9
# patches of 224 x 224) fit beside those of other tasks.
_WINDOWS_PER_TASK = 4
# Blocks handed to the worker: about a window each, so that the worker never waits for more than it needs.
_BLOCK_BYTES = 32 * 2**20
# Share of the cluster's object store that all ranks' cut pixels may fill while they wait.
_STORE_SHARE = 0.4
# What the random stream of an image's views is drawn for; `PatchOrder` uses the numbers below.
_VIEWS = 4

Block = dict[str, np.ndarray]


@dataclass(frozen=True)
class PatchLayout:
    """Which images of which shards are trained on, in shard order.

    `images` is their number in every shard of `shards` (file names); `rows_I` and `labels_I` give each image's row in
    its shard and its seen-class index.
    """

    shards: tuple[str, ...]
    images: tuple[int, ...]
    rows_I: np.ndarray
    labels_I: np.ndarray

    def of(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and labels of a shard's images."""
        start = sum(self.images[:shard])
        part = slice(start, start + self.images[shard])
        return self.rows_I[part], self.labels_I[part]


def patch_layout(frame: pd.DataFrame, chosen: np.ndarray, labels_I: np.ndarray) -> PatchLayout:
    """The layout of the images `chosen` (bool over `frame`, the committed images in shard order).

    Args:
        frame: with the column `shard`.
        chosen: bool over `frame`.
        labels_I: seen-class index of every chosen image.
    """
    number, names = pd.factorize(frame.shard)
    row = frame.groupby("shard", sort=False).cumcount().to_numpy()
    images = np.bincount(number[chosen], minlength=len(names))
    return PatchLayout(tuple(names), tuple(images.tolist()), row[chosen].astype(np.int32), labels_I)


@dataclass(frozen=True)
class Cutter:
    """How windows become pixels; travels to the tasks.

    `size` is the side of a patch in pixels, `augment` the strength of the augmentation (0 switches it off).
    """

    storage: Storage
    run: str
    order: PatchOrder
    size: int
    augment: float

    def cut(self, layout: PatchLayout, windows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pixels (P, size, size, 3) uint8 and labels (P,) of every window; the next is read while one is cut."""
        with ThreadPoolExecutor(1) as ahead:
            reads = [ahead.submit(self._read, layout, window) for window in windows[:1]]
            for number, window in enumerate(windows):
                if number + 1 < len(windows):
                    reads.append(ahead.submit(self._read, layout, windows[number + 1]))
                yield self._cut(window, layout, *reads.pop(0).result())

    def _read(self, layout: PatchLayout, window: np.void) -> tuple[np.ndarray, pa.Table]:
        """The numbers of a window's images among their shard's, and their rows of the shard."""
        images = np.unique(self.order.window_patches(window)[0])
        shard = int(window["shard"])
        uri = join(self.run, "patches", layout.shards[shard])
        return images, self.storage.read_rows(uri, layout.of(shard)[0][images], ["image", "boxes"])

    def _cut(
        self, window: np.void, layout: PatchLayout, images: np.ndarray, table: pa.Table
    ) -> tuple[np.ndarray, np.ndarray]:
        image_P, patch_P = self.order.window_patches(window)
        pixels = np.empty((len(image_P), self.size, self.size, 3), np.uint8)
        for position, image in enumerate(images.tolist()):
            at = np.flatnonzero(image_P == image)
            image_HW3 = decode_stored(table["image"][position].as_py())
            boxes_T4 = np.asarray(table["boxes"][position].as_py(), np.int32).reshape(-1, 4)
            pixels[at] = self._patches(image_HW3, boxes_T4, patch_P[at], window, image)
        return pixels, layout.of(int(window["shard"]))[1][image_P]

    def _patches(
        self, image_HW3: np.ndarray, boxes_T4: np.ndarray, wanted: np.ndarray, window: np.void, image: int
    ) -> np.ndarray:
        if self.augment == 0:
            return cut_patches(image_HW3, boxes_T4[wanted], self.size)
        key = (self.order.seed, _VIEWS, int(window["epoch"]), int(window["shard"]), image)
        views = draw_views(np.random.default_rng(key), len(boxes_T4), self.augment)
        boxes_T4 = move_boxes(boxes_T4, views, *image_HW3.shape[:2])
        patches = cut_patches(image_HW3, boxes_T4[wanted], self.size)
        recolour(patches, views.of(wanted))
        return patches


def _cut_block(block: pa.Table, *, cutter: Cutter, layout: Any, board: Any) -> Iterator[Block]:
    """A Ray Data task: windows in, pixels out."""
    import cv2
    import ray

    cv2.setNumThreads(1)
    numbers = block["number"].to_numpy()
    windows = np.zeros(len(numbers), WINDOW)
    for name in WINDOW.names or ():
        windows[name] = block[name].to_numpy()
    with board.reporting():
        for number, (pixels, labels) in zip(numbers, cutter.cut(ray.get(layout), windows), strict=True):
            yield {"pixels": pixels, "label": labels, "window": np.full(len(labels), number)}


class PixelBlocks:
    """Opens streams of cut windows on one rank.

    Args:
        cutter: how to cut.
        layout: what to cut.
        board: where a task leaves the error that should end the stage.
        cpus: CPUs that this rank's tasks may use together; 0 lets one task run beside the workers that hold them all.
        world_size: number of ranks, which share the object store.
    """

    def __init__(self, cutter: Cutter, layout: PatchLayout, board: Any, cpus: float, world_size: int) -> None:
        import ray

        self._work = partial(_cut_block, cutter=cutter, layout=ray.put(layout), board=board)
        self._cpus, self._world_size = cpus, world_size

    def __call__(self, windows: np.ndarray) -> Iterator[Block]:
        """Blocks of `pixels`, `label` and `window` (its number in `windows`), in the order of `windows`."""
        import ray

        if len(windows) == 0:
            return
        self._configure(ray.data.DataContext.get_current())
        rows = [
            {"number": number, **{name: int(window[name]) for name in WINDOW.names or ()}}
            for number, window in enumerate(windows)
        ]
        # Not from_arrow: it starts a task of one whole CPU for every table, for ever where the workers hold them all.
        dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _WINDOWS_PER_TASK))
        asked: dict[str, Any] = {"num_cpus": min(1.0, self._cpus)} if self._cpus else {"num_cpus": 0, "concurrency": 1}
        cut = dataset.map_batches(self._work, batch_size=None, batch_format="pyarrow", **asked)
        yield from cut.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)

    def _configure(self, context: Any) -> None:
        """Blocks in order, small ones, and no more than this rank's share of the cluster."""
        import ray
        from ray.data import ExecutionResources

        context.enable_progress_bars = False
        context.target_max_block_size = _BLOCK_BYTES
        options = context.execution_options
        options.preserve_order = True
        store = ray.cluster_resources().get("object_store_memory", 2**30)
        options.resource_limits = ExecutionResources.for_limits(
            cpu=self._cpus or None, object_store_memory=_STORE_SHARE * store / self._world_size
        )

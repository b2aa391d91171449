"""Patches streamed as pixels into a training worker (finetune), every patch once an epoch, in the order of PatchOrder.

Global batches, and with them what is learned, do not depend on the number of workers or on which task ends first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from vgse.clustering.batches import Batch, one_ahead
from vgse.clustering.patch_order import PatchOrder, lane_count
from vgse.config import ClusterConfig
from vgse.pipeline.patch_windows import Cutter, PatchLayout, PixelBlocks
from vgse.storage import Storage

# (lane, pixels, labels): a window, or the part of it that came in one block.
Piece = tuple[int, np.ndarray, np.ndarray]
Blocks = Iterator[dict[str, np.ndarray]]


def streamed_batches(
    storage: Storage,
    run: str,
    board: Any,
    cluster: ClusterConfig,
    *,
    layout: PatchLayout,
    patches: int,
    size: int,
    seed: int,
    rank: int,
    world_size: int,
    cpus: float,
) -> StreamedBatches:
    """The source of a fit whose pixels are cut by Ray Data tasks.

    Args:
        storage, run: where the patch shards lie.
        board: where a task leaves the error that should end the stage.
        cluster: batch size, epochs, augmentation.
        layout: what is trained on.
        patches: per image.
        size: side of a patch, pixels.
        seed: of order and augmentation.
        rank, world_size: of this worker.
        cpus: that this rank's tasks may use together, see `PixelBlocks`.
    """
    lanes = lane_count(len(layout.labels_I), world_size)
    order = PatchOrder(layout.images, patches, cluster.batch_size, lanes, seed)
    blocks = PixelBlocks(Cutter(storage, run, order, size, cluster.augment), layout, board, cpus, world_size)
    return StreamedBatches(order, blocks, size, rank, world_size, cluster.epochs)


class StreamedBatches:
    """This rank's rows of every global batch, pixels (B, size, size, 3) uint8.

    Args:
        order: of the patches.
        open_blocks: from windows (see `PatchOrder.windows`) to blocks of `pixels`, `label` and `window` in their order.
        size: side of a patch, pixels.
        rank: this rank.
        world_size: number of ranks.
        epochs: of the whole training: the next epoch is opened as soon as all of one has arrived.
    """

    def __init__(
        self,
        order: PatchOrder,
        open_blocks: Callable[[np.ndarray], Blocks],
        size: int,
        rank: int,
        world_size: int,
        epochs: int,
    ) -> None:
        self._order, self._open_blocks, self._size = order, open_blocks, size
        self._rank, self._world_size, self._epochs = rank, world_size, epochs
        self._opener = ThreadPoolExecutor(1)
        self._opened: tuple[int, Iterator[Piece]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch."""
        return self._order.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This rank's rows of every global batch of `epoch` from `first_step` on, each put together while the worker
        computes on the one before. What was skipped is neither read nor decoded."""
        pieces = self._pieces_of(epoch, first_step)
        return one_ahead(self._batches(pieces, epoch, first_step))

    def _batches(self, pieces: Iterator[Piece], epoch: int, first_step: int) -> Iterator[Batch]:
        waiting: dict[int, deque[tuple[np.ndarray, np.ndarray]]] = defaultdict(deque)
        for step in range(first_step, self.steps_per_epoch):
            need_L = self._order.taken(step + 1) - self._order.taken(step)
            parts: list[tuple[np.ndarray, np.ndarray]] = []
            for lane in self._order.rank_lanes(self._rank, self._world_size):
                need = int(need_L[lane])
                while need:
                    while not waiting[lane]:
                        arrived, *content = next(pieces)
                        waiting[arrived].append((content[0], content[1]))
                    pixels, labels = waiting[lane].popleft()
                    if len(labels) > need:
                        waiting[lane].appendleft((pixels[need:], labels[need:]))
                    parts.append((pixels[:need], labels[:need]))
                    need -= len(parts[-1][1])
            yield self._batch(parts)
        assert next(pieces, None) is None, "patches were left over at the end of an epoch"

    def _batch(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
        nothing = np.empty((0, self._size, self._size, 3), np.uint8)
        pixels = torch.from_numpy(np.concatenate([nothing, *(pixels for pixels, _ in parts)]))
        labels_B = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *(labels for _, labels in parts)]))
        # Pinned memory travels to a GPU while it computes.
        return Batch(pixels.pin_memory(), labels_B) if torch.cuda.is_available() else Batch(pixels, labels_B)

    def _pieces_of(self, epoch: int, first_step: int) -> Iterator[Piece]:
        """The stream from there on: the one that was opened ahead where it fits, else a new one."""
        ahead, self._opened = self._opened, None
        if ahead is not None and (epoch, first_step) == (ahead[0], 0):
            return ahead[1]
        return self._pieces(epoch, first_step)

    def _pieces(self, epoch: int, first_step: int) -> Iterator[Piece]:
        windows = self._order.windows(epoch, self._rank, self._world_size, first_step)
        rows = self._order.window_rows(windows)
        blocks = self._started(self._open_blocks(windows))

        def pieces() -> Iterator[Piece]:
            number, left = 0, int(rows[0]) if len(rows) else 0
            for block in blocks:
                start, count = 0, len(block["label"])
                while start < count:
                    part = slice(start, start + min(left, count - start))
                    assert left, "more patches came than were asked for"
                    assert (block["window"][part] == number).all(), "windows came out of order"
                    lane, start = int(windows["lane"][number]), part.stop
                    left -= part.stop - part.start
                    if left == 0:
                        number += 1
                        left = int(rows[number]) if number < len(rows) else 0
                        if number == len(rows) and epoch + 1 < self._epochs:
                            self._opened = (epoch + 1, self._pieces(epoch + 1, 0))
                    yield lane, block["pixels"][part], block["label"][part]
            assert number == len(rows), f"the stream ended after {number} of {len(rows)} windows"

        return pieces()

    def _started(self, blocks: Blocks) -> Blocks:
        """The same blocks, the first of them being asked for at once: that is when their tasks begin."""
        first = self._opener.submit(next, blocks, None)

        def whole() -> Blocks:
            block = first.result()
            if block is not None:
                yield block
                yield from blocks

        return whole()

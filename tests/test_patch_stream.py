"""Streamed batches without Ray: the rows of an epoch, from any step, on any number of ranks, however blocks are cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch

from vgse.clustering.patch_order import PatchOrder
from vgse.pipeline.patch_stream import StreamedBatches

ORDER = PatchOrder((30, 50, 0, 41), 3, 40, 64, 2)


def number(shard: int, image: int, patch: int) -> int:
    return (shard * 100 + image) * 10 + patch


class Blocks:
    """Blocks as `PixelBlocks` gives them, with the patch's number in place of its picture; remembers what was asked."""

    def __init__(self, order: PatchOrder, rows_per_block: int) -> None:
        self.order, self.rows_per_block, self.asked = order, rows_per_block, []

    def __call__(self, windows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        self.asked.append(windows)
        rows = []
        for position, window in enumerate(windows):
            for image, patch in zip(*self.order.window_patches(window), strict=True):
                rows.append((number(int(window["shard"]), int(image), int(patch)), position))
        for start in range(0, len(rows), self.rows_per_block):
            ids, positions = np.array(rows[start : start + self.rows_per_block]).T
            pixels = np.zeros((len(ids), 2, 2, 3), np.uint8)
            pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = ids >> 8, ids & 255
            yield {"pixels": pixels, "label": ids, "window": positions}


def source(rank: int, world_size: int, rows_per_block: int = 7, epochs: int = 2) -> tuple[StreamedBatches, Blocks]:
    blocks = Blocks(ORDER, rows_per_block)
    return StreamedBatches(ORDER, blocks, 2, rank, world_size, epochs), blocks


def rows(batches: Iterator) -> list[list[int]]:
    found = []
    for batch in batches:
        assert batch.inputs.dtype == torch.uint8
        assert batch.inputs.shape[1:] == (2, 2, 3)
        ids = batch.inputs[:, 0, 0, 0].long() * 256 + batch.inputs[:, 0, 0, 1].long()
        assert torch.equal(ids, batch.labels_B)
        found.append(ids.tolist())
    return found


@pytest.mark.parametrize("rows_per_block", [1, 7, 10_000])
@pytest.mark.parametrize("world_size", [1, 2, 5, 70])
def test_every_patch_comes_once_in_the_same_global_batches(world_size, rows_per_block):
    alone = rows(source(0, 1)[0].epoch(1))
    assert len(alone) == ORDER.steps_per_epoch
    assert sorted(chain(*alone)) == [
        number(s, i, p) for s, count in enumerate(ORDER.images) for i in range(count) for p in range(3)
    ]
    parts = [rows(source(rank, world_size, rows_per_block)[0].epoch(1)) for rank in range(world_size)]
    assert [list(chain(*(part[step] for part in parts))) for step in range(len(alone))] == alone


@pytest.mark.parametrize("first_step", [1, 5, ORDER.steps_per_epoch - 1, ORDER.steps_per_epoch])
def test_an_epoch_entered_in_the_middle_asks_only_for_what_is_left(first_step):
    whole, (part, blocks) = rows(source(1, 2)[0].epoch(0)), source(1, 2, epochs=1)
    left = rows(part.epoch(0, first_step))
    assert left == whole[first_step:]
    assert ORDER.window_rows(blocks.asked[0]).sum() == sum(map(len, left))


def test_the_next_epoch_is_opened_ahead_and_used():
    batches, blocks = source(0, 2, epochs=2)
    first = rows(batches.epoch(0))
    batches._opener.submit(int).result()
    assert [set(asked["epoch"]) for asked in blocks.asked] == [{0}, {1}]
    second = rows(batches.epoch(1))
    assert len(blocks.asked) == 2
    assert first != second
    assert second == rows(source(0, 2)[0].epoch(1))
    # Another place than was foreseen opens a stream of its own.
    assert rows(batches.epoch(0, 3)) == first[3:]


def test_an_epoch_left_in_the_middle_ends_quietly():
    batches, _ = source(0, 1)
    running = batches.epoch(0)
    next(running)
    running.close()
    assert len(rows(batches.epoch(1))) == ORDER.steps_per_epoch


def test_an_error_while_cutting_reaches_the_worker():
    def broken(windows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        yield from list(Blocks(ORDER, 50)(windows))[:1]
        raise OSError("no such bucket")

    with pytest.raises(OSError, match="no such bucket"):
        rows(StreamedBatches(ORDER, broken, 2, 0, 1, 1).epoch(0))

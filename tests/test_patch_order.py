"""The order of patches: every one once an epoch, in the same global batches on any number of ranks, from any step."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgse.clustering.patch_order import PatchOrder, lane_count

Row = tuple[int, int, int]


def batches(order: PatchOrder, epoch: int, world_size: int = 1, first_step: int = 0) -> list[list[Row]]:
    """Every global batch as a list of (shard, image, patch), in rank order, from the windows of every rank."""
    steps: list[list[Row]] = [[] for _ in range(order.steps_per_epoch)]
    for rank in range(world_size):
        queues: dict[int, list[Row]] = defaultdict(list)
        windows = order.windows(epoch, rank, world_size, first_step)
        assert list(windows["step"]) == sorted(windows["step"])
        arriving = iter(windows)
        waiting = next(arriving, None)
        for step in range(first_step, order.steps_per_epoch):
            while waiting is not None and waiting["step"] <= step:
                image, patch = order.window_patches(waiting)
                assert len(image) == order.window_rows(windows[windows == waiting])[0]
                queues[int(waiting["lane"])] += [
                    (int(waiting["shard"]), int(i), int(p)) for i, p in zip(image, patch, strict=True)
                ]
                waiting = next(arriving, None)
            need = order.taken(step + 1) - order.taken(step)
            for lane in order.rank_lanes(rank, world_size):
                # Nothing is asked for before its window was announced.
                assert len(queues[lane]) >= need[lane]
                steps[step] += queues[lane][: need[lane]]
                queues[lane] = queues[lane][need[lane] :]
        assert waiting is None
        assert not any(queues.values())
    return steps


layouts = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum)


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 4), st.integers(1, 150), st.integers(0, 9), st.integers(1, 70))
def test_every_patch_comes_once_in_the_same_batches_on_any_number_of_ranks(images, patches, batch, seed, lanes):
    order = PatchOrder(tuple(images), patches, batch, min(lanes, sum(images)), seed)
    alone = batches(order, epoch=3)
    rows = [row for step in alone for row in step]
    assert sorted(rows) == [(s, i, p) for s, count in enumerate(images) for i in range(count) for p in range(patches)]
    for world_size in (2, 3, 4, 5):
        # In the very same order: ranks serve lanes from the first to the last.
        assert batches(order, 3, world_size) == alone


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 4), st.integers(1, 60), st.data())
def test_an_epoch_can_be_entered_at_any_step(images, patches, batch, data):
    order = PatchOrder(tuple(images), patches, batch, lane_count(sum(images), 1), 0)
    first = data.draw(st.integers(0, order.steps_per_epoch))
    whole, part = batches(order, 1), batches(order, 1, data.draw(st.integers(1, 5)), first)
    assert part[first:] == whole[first:]
    assert not any(part[:first])


def test_batches_are_nearly_equal_and_mix_shards_and_images():
    order = PatchOrder((500, 500, 333, 500), 9, 256, 64, 5)
    steps = batches(order, 0)
    sizes = np.array([len(step) for step in steps])
    assert abs(sizes - order.rows / order.steps_per_epoch).max() <= 4
    assert all(len({(shard, image) for shard, image, _ in step}) > 0.6 * len(step) for step in steps)
    assert all(len({shard for shard, _, _ in step}) == 4 for step in steps)
    # The patches of an image lie in several steps.
    when = defaultdict(set)
    for number, step in enumerate(steps):
        for shard, image, _ in step:
            when[shard, image].add(number)
    assert np.mean([len(numbers) for numbers in when.values()]) > 5


def test_ranks_get_nearly_equal_shares_of_every_step():
    order = PatchOrder((500, 500, 333, 500), 9, 32, 64, 5)
    for step in range(20):
        need = order.taken(step + 1) - order.taken(step)
        shares = [need[list(order.rank_lanes(rank, 4))].sum() for rank in range(4)]
        assert max(shares) - min(shares) <= 4


def test_epochs_and_seeds_differ_and_repeat():
    order = PatchOrder((100, 60), 3, 64, 64, 1)
    assert batches(order, 0) == batches(PatchOrder((100, 60), 3, 64, 64, 1), 0)
    assert batches(order, 0) != batches(order, 1)
    assert batches(order, 0) != batches(PatchOrder((100, 60), 3, 64, 64, 2), 0)


def test_ranks_share_few_shards():
    order = PatchOrder((200,) * 16, 9, 1024, 64, 0)
    readers = defaultdict(set)
    for rank in range(4):
        for window in order.windows(2, rank, 4):
            readers[int(window["shard"])].add(rank)
    assert all(len(ranks) <= 2 for ranks in readers.values())


def test_the_number_of_lanes_depends_on_ranks_only_beyond_sixty_four():
    assert [lane_count(10_000, world) for world in (1, 3, 64, 65, 128, 200)] == [64, 64, 64, 128, 128, 256]
    assert lane_count(5, 8) == 5


@pytest.mark.parametrize("wrong", [((), 1, 1, 1, 0), ((3,), 1, 1, 4, 0), ((3,), 1, 0, 1, 0), ((3,), 1, 1, 1, -1)])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        PatchOrder(*wrong)

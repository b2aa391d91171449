"""The order in which patches are trained on: a pure function of seed, epoch and the layout of the patch shards.

An epoch visits the shards in random order, in each of them its *units* (runs of at most `UNIT_IMAGES` consecutive
images) in random order, in each unit its images in random order. That sequence of images is cut into L contiguous,
nearly equal *lanes*. Every global batch takes a few patches of every lane, so it mixes L places of the sequence, and a
rank serves a contiguous range of lanes. How many lanes there are does not depend on the number of ranks (up to
`LANES`), so neither do the global batches; a shard is read by the one or two ranks whose lanes lie in it; an epoch can
be entered at any step without looking at what was skipped.

A lane's part of a unit is a *window*: what is cut at once. The patches of a window are shuffled together, so those of
one image are spread over about UNIT_IMAGES * T * L / global batch steps (9 with 9 patches and batches of 1024), and at
most L windows are open at a time (1024 images at one worker, on average half consumed).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

LANES = 64
UNIT_IMAGES = 16
# What random streams are drawn for, beside (seed, epoch, ...).
_SHARDS, _UNITS, _IMAGES, _PATCHES = range(4)

WINDOW = np.dtype(
    [(name, np.int32) for name in ("epoch", "shard", "unit", "start", "stop", "skip", "lane")] + [("step", np.int64)]
)
"""A window: images [start, stop) of the shuffled unit `unit` of shard `shard`, without its first `skip` patches; it
belongs to `lane` and is first needed in step `step`."""


def lane_count(images: int, world_size: int) -> int:
    """Number of lanes L: 64, fewer only where there are fewer images, more (a power of two) only for more ranks."""
    return min(images, max(LANES, 1 << (world_size - 1).bit_length()))


@dataclass(frozen=True)
class PatchOrder:
    """The order of all epochs.

    Args:
        images: number of training images in every shard, in shard order.
        patches: patches per image T.
        global_batch: patches per step over all ranks; batches are nearly equal, at most a few rows above it.
        lanes: L, see `lane_count`.
        seed: not negative.

    Raises:
        ValueError: no images, or a number that is below 1.
    """

    images: tuple[int, ...]
    patches: int
    global_batch: int
    lanes: int
    seed: int

    def __post_init__(self) -> None:
        total = sum(self.images)
        if total == 0 or not 1 <= self.lanes <= total or self.patches < 1 or self.global_batch < 1 or self.seed < 0:
            raise ValueError(
                f"{total} images of {self.patches} patches in {self.lanes} lanes, global batch {self.global_batch}, "
                f"seed {self.seed}: every number must be at least 1 (the seed 0), and lanes at most images"
            )

    @property
    def rows(self) -> int:
        """Patches per epoch N."""
        return sum(self.images) * self.patches

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per epoch."""
        return -(-self.rows // self.global_batch)

    @cached_property
    def _bounds(self) -> np.ndarray:
        """Position of the first image of every lane, and the end (L + 1,)."""
        return sum(self.images) * np.arange(self.lanes + 1, dtype=np.int64) // self.lanes

    @cached_property
    def _phases(self) -> np.ndarray:
        """When in the course of a step a lane's share is rounded up, (L,) in 0..steps - 1: evenly spread over any range
        of lanes (the van der Corput sequence), so that batches and the ranks' shares of them stay nearly equal."""
        bits = max(1, (self.lanes - 1).bit_length())
        reversed_bits = sum(((np.arange(self.lanes) >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
        return np.asarray(reversed_bits, np.int64) * self.steps_per_epoch >> bits

    def taken(self, step: int) -> np.ndarray:
        """Patches of every lane (L,) that the steps before `step` took; the same in every epoch."""
        return (np.diff(self._bounds) * self.patches * step + self._phases) // self.steps_per_epoch

    def rank_lanes(self, rank: int, world_size: int) -> range:
        """The lanes that a rank serves."""
        return range(rank * self.lanes // world_size, (rank + 1) * self.lanes // world_size)

    def windows(self, epoch: int, rank: int = 0, world_size: int = 1, first_step: int = 0) -> np.ndarray:
        """What a rank needs of `epoch` from `first_step` on, in the order of need: records of `WINDOW`."""
        shard, unit, size = self._units(epoch)
        starts = np.cumsum(size) - size
        edges = np.union1d(starts, self._bounds)
        first, end = edges[:-1], edges[1:]
        which = np.searchsorted(starts, first, side="right") - 1
        lane = np.searchsorted(self._bounds, first, side="right") - 1
        windows = np.zeros(len(first), WINDOW)
        windows["epoch"], windows["lane"] = epoch, lane
        windows["shard"], windows["unit"] = shard[which], unit[which]
        windows["start"], windows["stop"] = first - starts[which], end - starts[which]
        # In patches of the lane from here on.
        position = (first - self._bounds[lane]) * self.patches
        rows = (end - first) * self.patches
        skip = np.clip(self.taken(first_step)[lane] - position, 0, rows)
        windows["skip"] = skip
        # The smallest step b after which the lane has given more than what lies before: taken(b + 1) > position + skip.
        lane_rows, steps = np.diff(self._bounds)[lane] * self.patches, self.steps_per_epoch
        windows["step"] = -(-(steps * (position + skip + 1) - self._phases[lane]) // lane_rows) - 1
        lanes = self.rank_lanes(rank, world_size)
        windows = windows[(skip < rows) & (lane >= lanes.start) & (lane < lanes.stop)]
        return windows[np.lexsort((windows["lane"], windows["step"]))]

    def window_rows(self, windows: np.ndarray) -> np.ndarray:
        """Patches in each window."""
        return (windows["stop"] - windows["start"]) * self.patches - windows["skip"]

    def window_patches(self, window: np.void) -> tuple[np.ndarray, np.ndarray]:
        """The patches of a window in their order: the image's number among its shard's, and its patch (both (P,))."""
        shard, unit, start, stop = (int(window[name]) for name in ("shard", "unit", "start", "stop"))
        size = min(UNIT_IMAGES, self.images[shard] - unit * UNIT_IMAGES)
        key = (int(window["epoch"]), shard, unit)
        images = unit * UNIT_IMAGES + self._random(_IMAGES, *key).permutation(size)[start:stop]
        order = self._random(_PATCHES, *key, start).permutation(len(images) * self.patches)[int(window["skip"]) :]
        image, patch = np.divmod(order, self.patches)
        return images[image], patch

    def _units(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, number and images of every unit, in the order of the epoch."""
        shards, units, sizes = [], [], []
        for shard in self._random(_SHARDS, epoch).permutation(len(self.images)):
            count = -(-self.images[shard] // UNIT_IMAGES)
            order = self._random(_UNITS, epoch, int(shard)).permutation(count)
            shards.append(np.full(count, shard))
            units.append(order)
            sizes.append(np.minimum(UNIT_IMAGES, self.images[shard] - order * UNIT_IMAGES))
        return np.concatenate(shards), np.concatenate(units), np.concatenate(sizes)

    def _random(self, purpose: int, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, *key))

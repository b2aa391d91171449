"""Units of work: the images of one patch shard each, drawn from the whole manifest in one global shuffle."""

from __future__ import annotations

import numpy as np
import pandas as pd

# Units of a small data set: enough of them that every CPU has work and a lost one costs little.
_FEWEST, _MANY = 16, 128


def cut_units(frame: pd.DataFrame, rows_per_unit: int, *, fewest: int = _FEWEST, small: int = 128) -> list[np.ndarray]:
    """Cuts the manifest into units of even size, at most `rows_per_unit` images each.

    Single files are shuffled globally. The rows of a Parquet row group (or of a stretch of a tar) stay together, so
    that its bytes are read once, and whole row groups are dealt out in random order, so units are as even as these
    allow; within a unit the rows are shuffled. The order depends on the manifest only, not on the run's seed: a crop
    that is continued must find its images in the same shards.

    Args:
        frame: rows of the manifest; `row` below 0 marks a single file.
        rows_per_unit: at least 1. Small data sets are cut smaller.
        fewest: units, where there are as many images.
        small: images, below which a unit is not worth it; counts less than `fewest`.

    Returns:
        Row numbers of `frame`, every one in one unit.
    """
    if not len(frame):
        return []
    rng = np.random.default_rng(len(frame))
    wanted = min(_MANY, max(fewest, len(frame) // small))
    units = min(len(frame), max(wanted, -(-len(frame) // rows_per_unit)))
    group = _read_as_one(frame)
    order = rng.permutation(group.max() + 1)
    rows_in_order = np.bincount(order[group])
    # A group goes where its first row falls when the rows are dealt out evenly.
    unit = ((np.cumsum(rows_in_order) - rows_in_order) * units // len(frame))[order[group]]
    position = np.lexsort((rng.permutation(len(frame)), unit))
    return np.split(position, np.flatnonzero(np.diff(unit[position])) + 1)


def _read_as_one(frame: pd.DataFrame) -> np.ndarray:
    """A number for every row, the same for rows that are read as one, in the order of their appearance. Int64 (N,)."""
    number = np.arange(len(frame))
    inside = np.flatnonzero(frame["row"].to_numpy() >= 0)
    if len(inside):
        file, _ = pd.factorize(frame["uri"].iloc[inside])
        part = frame["row_group"].to_numpy()[inside]
        number[inside] = len(frame) + file * (part.max() + 1) + part
    return pd.factorize(number)[0]

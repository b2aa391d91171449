"""The bytes of a unit of the manifest, read ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from vgse.data.readers.parquet import read_parquet_rows
from vgse.data.readers.webdataset import read_members
from vgse.storage import Storage

# Files asked for at once: enough to hide an object store's latency; and bytes (as listed) after which it is enough.
_CONCURRENT_READS = 64
_BYTES_AT_ONCE = 16 << 20
# Batches that are read before they are asked for. With the above, what bounds a worker's memory.
_BATCHES_AHEAD = 3

Batch = list[tuple[int, bytes | Exception]]


def read_images(storage: Storage, unit: pd.DataFrame) -> Iterator[tuple[Any, bytes | Exception]]:
    """Rows of a unit (as named tuples) with their bytes, in the order in which they are best read.

    One thread reads ahead: many single files at once, stretches of tars in one request each, Parquet row groups once
    each. A file that cannot be read is its exception; a tar or Parquet file that cannot be read raises.
    """
    unit = unit.reset_index(drop=True)
    rows = list(unit.itertuples())
    batches = _batches(storage, unit)
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        ahead = deque(pool.submit(next, batches, None) for _ in range(_BATCHES_AHEAD))
        while (batch := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, batches, None))
            for number, content in batch:
                yield rows[number], content
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(storage: Storage, unit: pd.DataFrame) -> Iterator[Batch]:
    yield from _read_files(storage, unit[unit["row"] < 0])
    inside = unit[unit["row"] >= 0]
    for uri, rows in inside.groupby("uri", sort=False):
        read = read_members if rows["offset"].iloc[0] >= 0 else read_parquet_rows
        yield from read(storage, str(uri), rows)


def _read_files(storage: Storage, files: pd.DataFrame) -> Iterator[Batch]:
    numbers: list[int] = []
    uris: list[str] = []
    size = 0
    for number, uri, length in zip(files.index, files["uri"], files["size"], strict=True):
        if len(uris) == _CONCURRENT_READS or (uris and size + length > _BYTES_AT_ONCE):
            yield list(zip(numbers, storage.read_many(uris), strict=True))
            numbers, uris, size = [], [], 0
        numbers.append(number)
        uris.append(uri)
        size += max(0, length)
    if uris:
        yield list(zip(numbers, storage.read_many(uris), strict=True))

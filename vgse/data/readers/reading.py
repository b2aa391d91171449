"""The bytes of a unit of the manifest, read ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from vgse.storage import Storage

# Files asked for at once: enough to hide an object store's latency, few enough to bound a worker's memory.
_CONCURRENT_READS = 64


def read_images(storage: Storage, unit: pd.DataFrame) -> Iterator[tuple[Any, bytes | Exception]]:
    """Rows of a unit with their bytes; single files are read ahead of their use, Parquet row groups once each."""
    single = unit[unit["row"] < 0]
    chunks = [single.iloc[i : i + _CONCURRENT_READS] for i in range(0, len(single), _CONCURRENT_READS)]
    with ThreadPoolExecutor(1) as ahead:
        reads = [ahead.submit(storage.read_many, list(chunk.uri)) for chunk in chunks[:1]]
        for number, chunk in enumerate(chunks):
            if number + 1 < len(chunks):
                reads.append(ahead.submit(storage.read_many, list(chunks[number + 1].uri)))
            yield from zip(chunk.itertuples(), reads.pop(0).result(), strict=True)
    for uri, rows in unit[unit["row"] >= 0].groupby("uri"):
        yield from _read_parquet_rows(storage, str(uri), rows)


def _read_parquet_rows(storage: Storage, uri: str, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
    with storage.open(uri) as source:
        reader = pq.ParquetFile(source)
        sizes = [reader.metadata.row_group(g).num_rows for g in range(reader.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        for group, members in rows.groupby("row_group"):
            images = reader.read_row_group(int(str(group)), columns=["image"])["image"]
            for row in members.itertuples():
                yield row, images[int(row.row) - int(starts[int(str(group))])].as_py() or b""

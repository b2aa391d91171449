"""Parquet files with the columns `image` (bytes) and `class_name`; ids from `image_id` or `path`, else file and row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vgse.data.readers.pages import page
from vgse.errors import DataError
from vgse.storage import Storage

_ROWS_PER_PAGE = 65_536
# A row group of fewer bytes is read at once; of a larger one, so many rows and bytes at a time, since nothing bounds
# what a writer put into it.
_SMALL = 16 << 20
_ROWS_AT_ONCE = 16
_BYTES_AT_ONCE = 8 << 20


def list_parquet(storage: Storage, uri: str) -> Iterator[pa.Table]:
    """Pages of one file, for which no image is read.

    Raises:
        DataError: it is no Parquet, or lacks a column.
    """
    with storage.open(uri) as source:
        try:
            reader = pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise DataError(f"data.images: {uri} is not readable Parquet: {error}", "replace the file") from None
        present = set(reader.schema_arrow.names)
        if not {"image", "class_name"} <= present:
            raise DataError(f"data.images: {uri} has columns {sorted(present)}", "it needs `image` and `class_name`")
        id_column = next((name for name in ("image_id", "path") if name in present), None)
        starts, stem, first = _starts(reader), uri.rsplit("/", 1)[-1], 0
        columns = ["class_name", *([id_column] if id_column else [])]
        for batch in reader.iter_batches(_ROWS_PER_PAGE, columns=columns):
            row = np.arange(first, first + len(batch))
            ids = batch[id_column].to_pylist() if id_column else [f"{stem}#{number}" for number in row]
            classes = batch["class_name"].to_pylist()
            if None in classes or None in ids:
                raise DataError(
                    f"data.images: {uri} has rows without class_name or {id_column or 'id'}",
                    "fill or remove these rows",
                )
            group = np.searchsorted(starts, row, side="right") - 1
            yield page(map(str, ids), map(str, classes), uri, row=row, row_group=group)
            first += len(batch)


def read_parquet_rows(storage: Storage, uri: str, rows: pd.DataFrame) -> Iterator[list[tuple[int, bytes | Exception]]]:
    """Some rows at a time of (label of the frame's row, image bytes), each row group read once.

    Rows of a row group come in the order of their labels, or as they lie where the group is too large to be held.

    Args:
        storage: where the file is.
        uri: the file.
        rows: rows of the manifest with the wanted `row` and `row_group`.
    """
    with storage.open(uri) as source:
        reader = pq.ParquetFile(source, buffer_size=_BYTES_AT_ONCE)
        starts = _starts(reader)
        for group, members in rows.groupby("row_group", sort=False):
            number = int(str(group))
            label_of = dict(zip((members["row"] - starts[number]).tolist(), members.index.tolist(), strict=True))
            small = reader.metadata.row_group(number).total_byte_size <= _SMALL
            at_once = int(starts[number + 1] - starts[number]) if small else _ROWS_AT_ONCE
            first = 0
            for batch in reader.iter_batches(at_once, row_groups=[number], columns=["image"]):
                images = batch["image"]
                wanted = [i for i in range(len(images)) if first + i in label_of]
                yield sorted((label_of[first + i], images[i].as_py() or b"") for i in wanted)
                first += len(images)


def _starts(reader: pq.ParquetFile) -> np.ndarray:
    """The number of the first row of every row group, and of the row after the last."""
    groups = range(reader.metadata.num_row_groups)
    return np.cumsum([0, *(reader.metadata.row_group(group).num_rows for group in groups)])

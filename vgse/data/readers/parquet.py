"""Parquet files with the columns `image` (bytes) and `class_name`; ids from `image_id` or `path`, else file and row.

As Hugging Face's datasets write them, `image` may also be a struct with `bytes`, and `label` numbers whose names stand
in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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


def list_parquet(storage: Storage, uri: str, class_names: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    """Pages of one file, for which no image is read.

    Args:
        storage: where it is.
        uri: the file.
        class_names: what the numbers in `label` stand for, where the file does not say so itself.

    Raises:
        DataError: it is no Parquet, lacks a column, or has rows without class or id.
    """
    with storage.open(uri) as source:
        try:
            reader = pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise DataError(f"data.images: {uri} is not readable Parquet: {error}", "replace the file") from None
        present = set(reader.schema_arrow.names)
        class_column = next((name for name in ("class_name", "label") if name in present), None)
        if "image" not in present or class_column is None:
            raise DataError(
                f"data.images: {uri} has columns {sorted(present)}", "it needs `image` and `class_name` (or `label`)"
            )
        _bytes_column(reader, uri)
        id_column = next((name for name in ("image_id", "path") if name in present), None)
        names = _label_names(reader) or class_names
        starts, stem, first = _starts(reader), uri.rsplit("/", 1)[-1], 0
        for batch in reader.iter_batches(_ROWS_PER_PAGE, columns=[class_column, *([id_column] if id_column else [])]):
            row = np.arange(first, first + len(batch))
            ids = batch[id_column].to_pylist() if id_column else [f"{stem}#{number}" for number in row]
            classes = _class_names(batch[class_column].to_pylist(), names if class_column == "label" else None, uri)
            if None in classes or None in ids:
                raise DataError(
                    f"data.images: {uri} has rows without {class_column} or {id_column or 'id'}",
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
        starts, column = _starts(reader), _bytes_column(reader, uri)
        for group, members in rows.groupby("row_group", sort=False):
            number = int(str(group))
            label_of = dict(zip((members["row"] - starts[number]).tolist(), members.index.tolist(), strict=True))
            small = reader.metadata.row_group(number).total_byte_size <= _SMALL
            at_once = int(starts[number + 1] - starts[number]) if small else _ROWS_AT_ONCE
            first = 0
            for batch in reader.iter_batches(at_once, row_groups=[number], columns=[column]):
                images = batch["image"] if column == "image" else pc.struct_field(batch["image"], "bytes")
                wanted = [i for i in range(len(images)) if first + i in label_of]
                yield sorted((label_of[first + i], images[i].as_py() or b"") for i in wanted)
                first += len(images)


def _bytes_column(reader: pq.ParquetFile, uri: str) -> str:
    """The path of the column with the images' bytes."""
    kind = reader.schema_arrow.field("image").type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:
        return "image.bytes"
    raise DataError(f"data.images: {uri}: the column image holds {kind}", "write the images' encoded bytes into it")


def _label_names(reader: pq.ParquetFile) -> tuple[str, ...] | None:
    """The names of the numbers in `label`, as Hugging Face's datasets note them."""
    try:
        features = json.loads(reader.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features["label"]["names"]))
    except (TypeError, KeyError, ValueError):
        return None


def _class_names(values: list[Any], names: tuple[str, ...] | None, uri: str) -> list[Any]:
    if names is None:
        return values
    outside = [value for value in values if isinstance(value, int) and not 0 <= value < len(names)]
    if outside:
        raise DataError(
            f"data.images: {uri}: label {outside[0]} has no name among {len(names)}, counted from 0",
            "give data.class_names the list that the numbers were made with",
        )
    return [names[value] if isinstance(value, int) else value for value in values]


def _starts(reader: pq.ParquetFile) -> np.ndarray:
    """The number of the first row of every row group, and of the row after the last."""
    groups = range(reader.metadata.num_row_groups)
    return np.cumsum([0, *(reader.metadata.row_group(group).num_rows for group in groups)])

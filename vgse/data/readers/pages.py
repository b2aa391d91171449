"""What every reader gives: pages of rows, one per image, as Arrow columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from vgse.errors import DataError

# `row` and `row_group`: the image's number in its Parquet file or tar, and the part of it that is read as one, -1 for
# a file of its own. `offset`: where its bytes begin in a tar, else -1. `size`: their number, -1 where that is unknown.
PAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.large_string()),
        ("class_name", pa.large_string()),
        ("uri", pa.large_string()),
        ("row", pa.int64()),
        ("row_group", pa.int64()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
IMAGE_SUFFIXES = frozenset(
    ("jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "avif")
)

Numbers = int | Sequence[int] | np.ndarray


def page(
    ids: Iterable[str], classes: Iterable[str], uris: Iterable[str] | str, *,
    row: Numbers = -1, row_group: Numbers = -1, offset: Numbers = -1, size: Numbers = -1,
) -> pa.Table:  # fmt: skip
    """A page of `PAGE_SCHEMA`; a single value stands for a column of it.

    Raises:
        DataError: a name that is not UTF-8.
    """
    try:
        names = pa.array(ids, pa.large_string())
        texts = [names, pa.array(classes, pa.large_string())]
        places = uris if isinstance(uris, str) else pa.array(uris, pa.large_string())
    except UnicodeEncodeError as error:
        raise DataError(
            f"data.images: a file name is not UTF-8: {error.object!r}", "rename the file (e.g. with convmv)"
        ) from None
    if isinstance(places, str):
        places = pa.repeat(pa.scalar(places, pa.large_string()), len(names))
    numbers = [pa.array(np.broadcast_to(np.asarray(n, np.int64), len(names))) for n in (row, row_group, offset, size)]
    return pa.table([*texts, places, *numbers], schema=PAGE_SCHEMA)


def is_hidden(uri: str) -> bool:
    """Whether a file's name says that it is not data."""
    return uri.rsplit("/", 1)[-1].startswith((".", "_"))


def suffix(uri: str) -> str:
    """What follows the last dot of a file's name, in small letters."""
    return uri.rsplit("/", 1)[-1].rpartition(".")[2].lower()

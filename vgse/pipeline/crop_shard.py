"""What a worker does with one unit of the manifest: its images become one patch shard, written as they come.

A shard is collected in row groups, not in memory, and appears whole when its last row is written; the quarantine of its
images is written just before. So a worker that dies leaves nothing behind, and its unit is simply done again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vgse.config import CropConfig
from vgse.data.readers import read_images
from vgse.errors import StorageError, VgseError
from vgse.patches import ImageError, cap_short_side, decode, propose_boxes
from vgse.pipeline.accounts import QUARANTINE_SCHEMA, row_digest, shard_name
from vgse.storage import Storage, join

# Images per row group of a shard (2.3 MB at short side 256): fine-tuning reads a few images at a time, while those who
# list a shard's images make a request per group.
_ROWS_PER_GROUP = 64
# How often a unit is begun: after any number of preempted machines, but not for ever where an image kills its worker.
_ATTEMPTS = 50

PATCH_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("class_name", pa.string()),
        ("role", pa.string()),
        ("rank", pa.int64()),
        ("image", pa.binary()),
        ("boxes", pa.list_(pa.int32())),
        ("sha256", pa.string()),
    ]
)


def crop_units(batch: pa.Table, *, storage: Storage, run: str, crop: CropConfig, board: Any) -> pa.Table:
    """Units to shards: the function of Ray Data.

    Args:
        batch: `uri` and `group` (a row group of a Parquet file of units) and `unit` (the shard's number); one row, or
            several where Ray Data joined blocks.
        storage: how run and images are reached.
        run: the run directory.
        crop: the settings.
        board: where an error is left for the driver.

    Returns:
        Per unit the number of its `rows`, and as JSON how many of them were refused, by reason (`reasons`).

    Raises:
        VgseError: the unit's worker has died too often.
        StorageError: an image is there, but cannot be read.
    """
    import cv2

    cv2.setNumThreads(1)
    done = []
    with board.reporting():
        for entry in batch.to_pylist():
            _check_attempts(entry, board.attempt(entry["unit"]))
            with storage.open(entry["uri"]) as source:
                unit = pq.ParquetFile(source).read_row_group(entry["group"]).to_pandas()
            reasons = write_shard(storage, run, entry["unit"], unit, crop)
            done.append({"rows": len(unit), "reasons": json.dumps(reasons)})
            board.served()
    return pa.Table.from_pylist(done)


def _check_attempts(entry: dict[str, Any], attempt: int) -> None:
    if attempt > _ATTEMPTS:
        raise VgseError(
            f"crop: a worker process died {attempt - 1} times on {shard_name(entry['unit'])}\n  -> give the workers "
            f"more memory; if that is not it, one of its images (row group {entry['group']} of {entry['uri']}) crashes "
            "its decoder: remove it"
        )


def write_shard(storage: Storage, run: str, number: int, unit: pd.DataFrame, crop: CropConfig) -> Counter[str]:
    """Crops the images of a unit and writes its shard and its quarantine. How many were refused, by reason."""
    name = shard_name(number)
    refused: list[dict[str, Any]] = []
    with storage.writing(join(run, "patches", name)) as sink:
        with pq.ParquetWriter(sink, PATCH_SCHEMA, compression="none") as writer:
            usable = _usable(storage, unit, crop, refused)
            while rows := list(islice(usable, _ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, PATCH_SCHEMA))
        # The quarantine goes first: a shard's presence says that the unit is complete.
        if refused:
            storage.write_table(join(run, "quarantine", name), pa.Table.from_pylist(refused, QUARANTINE_SCHEMA))
    return Counter(row["reason"] for row in refused)


def _usable(
    storage: Storage, unit: pd.DataFrame, crop: CropConfig, refused: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for row, data in read_images(storage, unit):
        result = crop_image(row, data, crop)
        if "reason" in result:
            refused.append(result)
        else:
            yield result


def crop_image(row: Any, data: bytes | Exception, crop: CropConfig) -> dict[str, Any]:
    """A row of the patch shard, or of the quarantine where the image cannot be used.

    Raises:
        StorageError: the image is there, but cannot be read.
    """
    try:
        encoded = bytes_read(row, data)
        decoded = decode(encoded, max_pixels=crop.max_pixels, short_side=crop.short_side)
        stored, image_HW3 = cap_short_side(encoded, decoded, crop.short_side)
        boxes_T4 = propose_boxes(
            image_HW3, method=crop.method, patches=crop.patches, side=crop.segment_side, compactness=crop.compactness
        )
    except ImageError as error:
        named = {name: getattr(row, name) for name in ("image_id", "class_name", "uri")}
        return {**named, "reason": error.reason, "detail": error.detail}
    boxes = np.ascontiguousarray(boxes_T4, np.int32)
    return {
        "image_id": row.image_id,
        "class_name": row.class_name,
        "role": row.role,
        "rank": row.rank,
        "image": stored,
        "boxes": boxes.ravel(),
        "sha256": row_digest(stored, boxes),
    }


def bytes_read(row: Any, data: bytes | Exception) -> bytes:
    """What `read_images` gave for a row, where that is bytes.

    Raises:
        ImageError: `missing`.
        StorageError: the file is there, but cannot be read.
    """
    if isinstance(data, FileNotFoundError):
        raise ImageError("missing", "the file has gone since it was listed")
    if isinstance(data, Exception):
        raise StorageError(f"{row.uri}: {type(data).__name__}: {data}", "check access to data.images, then run again")
    return data

"""Patches as pixels straight from images: a Ray Dataset for programs of your own, with nothing written in between.

`vgse crop` keeps what it finds, since every later stage comes back to it. Who needs every patch once (another training
program, an export) has an image read, decoded, its boxes proposed and its patches cut in one task here; pixels are made
next to their bytes and travel once, to the consumer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vgse.config import CropConfig
from vgse.data.manifest import list_images
from vgse.data.readers import read_images
from vgse.data.units import cut_units
from vgse.patches import ImageError, cut_patches, decode_image, propose_boxes
from vgse.pipeline.crop_shard import bytes_read
from vgse.pipeline.session import connect, cpus
from vgse.storage import Storage

# Images that an actor is handed at once: two thirds of a second of work.
_IMAGES_AT_ONCE = 256
# Pixels handed over at once.
_BLOCK_BYTES = 32 * 2**20


def patch_dataset(
    images: str, *, size: int, crop: CropConfig | None = None, storage: Storage | None = None, layout: str = "auto"
) -> Any:
    """The patches of every image at a location, in an order that is random to the eye.

    Args:
        images: URI of a folder tree (class = folder) or of shards, as `data.images` takes it.
        size: side of a patch, pixels.
        crop: how patches are found; an image of twice its `short_side` or more is decoded at a reduced scale.
        storage: how s3 is reached.
        layout: as `data.format`.

    Returns:
        A `ray.data.Dataset` with one row per image: `image_id`, `class_name`, `patches` uint8 (T, size, size, 3),
        `boxes` int32 (T, 4) in pixels of the decoded image, and `reason`: empty, or why the image could not be used
        (see `ImageError`), in which case its pixels and boxes are zeros.

    Raises:
        DataError, StorageError: there is nothing at `images`, or it cannot be read.
        ValueError: size below 1.
    """
    import ray

    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    storage, crop = storage or Storage(), crop or CropConfig()
    frame = list_images(storage, images, layout)
    units = cut_units(frame, _IMAGES_AT_ONCE, small=_IMAGES_AT_ONCE)
    blocks = [pa.Table.from_pandas(frame.iloc[rows], preserve_index=False) for rows in units]
    if not ray.is_initialized():
        connect()
    # Actors have their next block waiting; between two tasks a CPU would idle for 0.15 s.
    return ray.data.from_arrow(blocks).map_batches(
        _Cutter, fn_constructor_args=(storage, crop, size), concurrency=(1, max(1, min(cpus(), len(blocks)))),
        batch_size=None, batch_format="pyarrow", num_cpus=1,
    )  # fmt: skip


class _Cutter:
    """A Ray Data actor: rows of the manifest in, pixels out."""

    def __init__(self, storage: Storage, crop: CropConfig, size: int) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._storage, self._crop, self._size = storage, crop, size

    def __call__(self, block: pa.Table) -> Iterator[dict[str, np.ndarray]]:
        """Some images."""
        rows = block.to_pandas()
        most = max(1, _BLOCK_BYTES // (self._crop.patches * self._size**2 * 3))
        read = read_images(self._storage, rows)
        for left in range(len(rows), 0, -most):
            yield _cut_images(read, min(most, left), self._crop, self._size)


def _cut_images(
    read: Iterator[tuple[Any, bytes | Exception]], count: int, crop: CropConfig, size: int
) -> dict[str, np.ndarray]:
    """The next `count` images."""
    patches_NTHW3 = np.zeros((count, crop.patches, size, size, 3), np.uint8)
    boxes_NT4 = np.zeros((count, crop.patches, 4), np.int32)
    named = []
    for number in range(count):
        row, data = next(read)
        reason = ""
        try:
            image_HW3 = decode_image(bytes_read(row, data), max_pixels=crop.max_pixels, short_side=crop.short_side)
            boxes_NT4[number] = propose_boxes(
                image_HW3, method=crop.method, patches=crop.patches, side=crop.segment_side,
                compactness=crop.compactness,
            )  # fmt: skip
            patches_NTHW3[number] = cut_patches(image_HW3, boxes_NT4[number], size)
        except ImageError as error:
            reason = error.reason
        named.append((row.image_id, row.class_name, reason))
    columns = dict(zip(("image_id", "class_name", "reason"), np.array(named, object).T, strict=True))
    return {**columns, "patches": patches_NTHW3, "boxes": boxes_NT4}

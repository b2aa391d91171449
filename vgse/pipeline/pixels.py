"""From patch shards to network inputs, cut next to the consumer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vgse.patches import cut_patches, decode_stored, whole_image


@dataclass(frozen=True)
class Chunk:
    """Pixels of some images of a shard.

    `pixels` is uint8 (M, size, size, 3). `whole_rows` and `patch_rows` say what they are: first one row per whole image
    (its row in the shard), then T rows per image whose patches are wanted.
    """

    pixels: np.ndarray
    whole_rows: np.ndarray
    patch_rows: np.ndarray


def pixel_chunks(
    shard: pa.Table, *, size: int, whole: Sequence[bool], patches: Sequence[bool], images: int, threads: int
) -> Iterator[Chunk]:
    """Cuts the images of a shard in chunks, the next chunk being cut while the caller works on this one.

    Args:
        shard: rows of a patch shard (`image`, `boxes`).
        size: side in pixels of what is cut.
        whole: per row, whether the whole image is wanted.
        patches: per row, whether its T patches are wanted.
        images: images per chunk, which bounds the memory.
        threads: threads to cut with (OpenCV releases the interpreter lock).
    """
    encoded, boxes = shard["image"], shard["boxes"]

    def cut(row: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        image_HW3 = decode_stored(encoded[row].as_py())
        boxes_T4 = np.asarray(boxes[row].as_py(), np.int32).reshape(-1, 4)
        return (
            whole_image(image_HW3, size) if whole[row] else None,
            cut_patches(image_HW3, boxes_T4, size) if patches[row] else None,
        )

    wanted = [row for row in range(shard.num_rows) if whole[row] or patches[row]]
    parts = [wanted[i : i + images] for i in range(0, len(wanted), images)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead = [pool.submit(cut, row) for row in (parts[0] if parts else [])]
        for number, part in enumerate(parts):
            current = ahead
            ahead = [pool.submit(cut, row) for row in (parts[number + 1] if number + 1 < len(parts) else [])]
            yield _chunk(part, [future.result() for future in current])


def _chunk(rows: Sequence[int], cuts: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> Chunk:
    wholes = [(row, image) for row, (image, _) in zip(rows, cuts, strict=True) if image is not None]
    patched = [(row, patches) for row, (_, patches) in zip(rows, cuts, strict=True) if patches is not None]
    pixels = [image[None] for _, image in wholes] + [patches for _, patches in patched]
    return Chunk(
        np.concatenate(pixels),
        np.array([row for row, _ in wholes], np.int64),
        np.array([row for row, _ in patched], np.int64),
    )

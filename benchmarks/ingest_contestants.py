"""Whom bench_ingest.py lets run: programs that read photographs and cut 9 patches at 64 px, in processes of their own.

    python benchmarks/ingest_contestants.py NAME DATA IMAGES

reads the IMAGES images of a folder that `ingest_data.py` wrote (ours: or of a bucket) and prints one JSON line. All use
two workers and the kernels of `vgse.patches` (but `naive`), and hand batches to the main process, which takes a
checksum of every image's patches (but `pool`, whose workers take it, so that nothing travels). What a contestant needs
is imported by it: the rivals live in an environment of their own.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from process_tree import cpu_seconds

WORKERS, BATCH, SIZE, PATCHES = 2, 64, 64, 9
# What `vgse crop` stores images at: a photograph of twice that or more is decoded at a half.
SHORT_SIDE = 256
# (images, checksum) of what was delivered together.
Delivered = Iterator[tuple[int, int]]


def patches_of(data: bytes) -> np.ndarray:
    """The kernels: bytes to patches (9, 64, 64, 3) uint8."""
    from vgse.patches import cut_patches, decode_image, propose_boxes

    image_HW3 = decode_image(data, short_side=SHORT_SIDE)
    return cut_patches(image_HW3, propose_boxes(image_HW3, patches=PATCHES), SIZE)


def read_file(path: str) -> bytes:
    """A whole file."""
    with open(path, "rb") as file:
        return file.read()


def one_thread(*_: Any) -> None:
    """OpenCV keeps to the worker's core, as it does in ours."""
    import cv2

    cv2.setNumThreads(1)


def checksums(batches: Iterable[Any]) -> Delivered:
    """Of batches (B, 9, 64, 64, 3), in any order of images the same sum."""
    for batch in batches:
        yield len(batch), sum(zlib.adler32(np.ascontiguousarray(patches)) for patches in np.asarray(batch))


def ours(images: str, folder: str, count: int) -> Delivered:
    """`vgse.pipeline.patch_dataset`, consumed on the driver."""
    from vgse.pipeline.patch_dataset import patch_dataset
    from vgse.pipeline.session import connect

    connect()
    dataset = patch_dataset(f"{folder}/{images}", size=SIZE)
    yield from checksums(batch["patches"] for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"))


def _chunk(paths: list[str]) -> tuple[int, int]:
    return len(paths), sum(zlib.adler32(patches_of(read_file(path))) for path in paths)


def pool(folder: str, count: int) -> Delivered:
    """Two processes, a loop in each, and two numbers a batch between them."""
    paths = files(folder, count)
    with multiprocessing.get_context("spawn").Pool(WORKERS, initializer=one_thread) as workers:
        yield from workers.imap_unordered(_chunk, [paths[at : at + BATCH] for at in range(0, count, BATCH)])


class Photographs:
    """A map-style dataset of files, for torch's DataLoader."""

    def __init__(self, paths: list[str], cut: Callable[[str], Any]) -> None:
        self.paths, self.cut = paths, cut

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        return self.cut(self.paths[number])


def cut_file(path: str) -> np.ndarray:
    """A file's patches by our kernels."""
    return patches_of(read_file(path))


def cut_usual(path: str) -> Any:
    """What programs usually do: Pillow, torchvision's transforms, scikit-image's watershed at short side 256."""
    import torch
    from PIL import Image
    from skimage.color import rgb2gray
    from skimage.filters import sobel
    from skimage.measure import regionprops
    from skimage.segmentation import watershed
    from torchvision.transforms import v2 as transforms
    from torchvision.transforms.v2 import functional

    image = transforms.Resize(SHORT_SIDE)(Image.open(path).convert("RGB"))
    regions = regionprops(watershed(sobel(rgb2gray(np.asarray(image))), markers=PATCHES, compactness=0.01))
    boxes = [region.bbox for region in regions][:PATCHES]
    boxes += boxes[-1:] * (PATCHES - len(boxes))
    cuts = [
        functional.resized_crop(image, top, left, bottom - top, right - left, [SIZE, SIZE])
        for top, left, bottom, right in boxes
    ]
    return torch.stack([functional.pil_to_tensor(cut) for cut in cuts])


def dataloader(folder: str, count: int, cut: Callable[[str], Any] = cut_file) -> Delivered:
    """torch's DataLoader over single files."""
    from torch.utils.data import DataLoader

    photographs: Any = Photographs(files(folder, count), cut)
    yield from checksums(DataLoader(photographs, batch_size=BATCH, num_workers=WORKERS, worker_init_fn=one_thread))


def webdataset(folder: str, count: int) -> Delivered:
    """WebDataset over tars."""
    import webdataset

    shards = [str(path) for path in sorted((Path(folder) / "tar").glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg").map_tuple(patches_of)
    loader = webdataset.WebLoader(
        samples.batched(BATCH), batch_size=None, num_workers=WORKERS, worker_init_fn=one_thread
    )
    yield from checksums(batch[0] for batch in loader)


def litdata(folder: str, count: int) -> Delivered:
    """LitData over its chunks."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Chunks(StreamingDataset):
        def __getitem__(self, index: Any) -> np.ndarray:
            return patches_of(bytes(super().__getitem__(index)["image"]))

    chunks = Chunks(f"{folder}/litdata", shuffle=False)
    yield from checksums(StreamingDataLoader(chunks, batch_size=BATCH, num_workers=WORKERS, worker_init_fn=one_thread))


def streaming(folder: str, count: int) -> Delivered:
    """MosaicML Streaming over MDS shards."""
    import streaming as mosaic
    from torch.utils.data import DataLoader

    class Shards(mosaic.StreamingDataset):
        def __getitem__(self, index: Any) -> np.ndarray:
            return patches_of(bytes(super().__getitem__(index)["image"]))

    mosaic.base.util.clean_stale_shared_memory()
    shards = Shards(local=f"{folder}/mds", shuffle=False, batch_size=BATCH)
    yield from checksums(DataLoader(shards, batch_size=BATCH, num_workers=WORKERS, worker_init_fn=one_thread))


CONTESTANTS: dict[str, Callable[[str, int], Delivered]] = {
    "ours": partial(ours, "files"),
    "ours_tar": partial(ours, "tar"),
    "ours_parquet": partial(ours, "parquet"),
    "pool": pool,
    "dataloader": dataloader,
    "naive": partial(dataloader, cut=cut_usual),
    "webdataset": webdataset,
    "litdata": litdata,
    "streaming": streaming,
}


def files(folder: str, count: int) -> list[str]:
    """The first `count` single files."""
    found = sorted(str(path) for path in (Path(folder) / "files").glob("*/*"))[:count]
    assert len(found) == count, f"{folder} holds {len(found)} files, {count} were asked for"
    return found


def measure(delivered: Delivered, count: int) -> dict[str, float]:
    """Images, checksum, images per second, CPU milliseconds per image of all processes; `first` and `ended` are moments
    of the system's monotonic clock.

    The rate is the slope of a line through what had been delivered when, from a tenth of the images to nine tenths: it
    takes neither the work that is under way at the start for nothing nor blocks that come together for speed.
    """
    moments: list[tuple[float, int]] = []
    used: list[tuple[int, dict[int, float]]] = []
    images = checksum = 0
    for more, summed in delivered:
        images, checksum = images + more, checksum + summed
        moments.append((time.monotonic(), images))
        if images >= (0.1 + 0.8 * len(used)) * count and len(used) < 2:
            used.append((images, cpu_seconds()))
    steady = [moment for moment in moments if 0.1 <= moment[1] / images <= 0.9]
    times, counts = np.array(steady).T
    (first, before), (last, after) = used
    return {
        "images": images,
        "checksum": checksum,
        "rate": float(np.polyfit(times - times[0], counts, 1)[0]),
        "cpu_ms": 1000 * sum(after[process] - before.get(process, 0.0) for process in after) / (last - first),
        "first": moments[0][0],
        "ended": moments[-1][0],
    }


if __name__ == "__main__":
    one_thread()
    print(json.dumps(measure(CONTESTANTS[sys.argv[1]](sys.argv[2], int(sys.argv[3])), int(sys.argv[3]))))

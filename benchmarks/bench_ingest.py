"""Ingest by vgse against bare loops and the usual loaders: photographs in, 9 patches at 64 px out.

    uv run python benchmarks/bench_ingest.py             # speed, segmentation, S3 with latency: about 12 minutes
    uv run python benchmarks/bench_ingest.py --memory    # and peak memory at 10,000 and 100,000 images

Ours is `vgse.pipeline.patch_dataset`, which `ingest_contestants.py` lets run beside the others, each in processes of
its own, one after another and round by round: same photographs (repeated under distinct ids), same kernels, same
patches (by checksum). Files are read by ours, a bare pool of two processes, torch's DataLoader and the usual Pillow and
torchvision code; shards by ours (tars), WebDataset, LitData and MosaicML Streaming, each its own format, written
before. The last three live in an environment of their own, made by uv at --rivals. Rates are those between a tenth and
nine tenths of the images; what starting costs stands beside them. `ingest_s3.py` and `ingest_memory.py` measure the
rest. Writes benchmarks/results/ingest.md and prints one JSON object as its last line: ratios at the larger size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ingest_report import report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/ingest.md"
# The kernels' libraries as in pyproject.toml, so that pixels are the same; NumPy as the rivals allow it.
RIVALS = (
    "webdataset==1.0.2", "litdata==0.2.76", "mosaicml-streaming==0.13.0", "torch==2.15.0",
    "opencv-python-headless==5.0.0.93", "numba==0.68.1", "pillow==13.0.0",
)  # fmt: skip
KINDS = ("files", "tar", "parquet", "litdata", "mds")
# Images read from S3.
FAR_SIZE = 4_000
# In this order, round by round.
LINE_UP = ("pool", "ours", "dataloader", "naive", "webdataset", "ours_tar", "litdata", "streaming")
# Of the images that the others take: this one takes about ten times as long.
NAIVE_SHARE = 8
AGAINST = {
    "vs_pool": ("ours", "pool"),
    "vs_dataloader": ("ours", "dataloader"),
    "vs_naive": ("ours", "naive"),
    "vs_webdataset": ("ours_tar", "webdataset"),
    "vs_litdata": ("ours_tar", "litdata"),
    "vs_streaming": ("ours_tar", "streaming"),
}


def rivals_python(folder: Path) -> str:
    """The interpreter of the rivals' environment, which is made unless it is there."""
    python = folder / "bin/python"
    pins = folder / "pins.txt"
    if not pins.exists() or pins.read_text() != "\n".join(RIVALS):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", version, str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *RIVALS], check=True)
        pins.write_text("\n".join(RIVALS))
    return str(python)


def python_of(name: str, rivals: str) -> str:
    """The interpreter that runs a contestant or writes a kind of data."""
    return rivals if name in ("webdataset", "litdata", "streaming", "mds") else sys.executable


def write_data(photographs: Path, folder: Path, images: int, rivals: str, kinds: Sequence[str]) -> None:
    """These kinds of data, unless they are there."""
    for kind in kinds:
        script = str(ROOT / "benchmarks/ingest_data.py")
        command = [python_of(kind, rivals), script, kind, str(photographs), str(folder), str(images)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run_contestant(
    name: str, data: Path | str, images: int, python: str = sys.executable, more: dict[str, str] | None = None
) -> dict[str, float]:
    """One contestant in a process of its own: images, checksum, `rate` in images per second, and `start` and `all`,
    seconds to the first batch and to the last, imports included."""
    script = str(ROOT / "benchmarks/ingest_contestants.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(more or {})}
    began = time.monotonic()
    done = subprocess.run(
        [python, script, name, str(data), str(images)], env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found |= {"start": found.pop("first") - began, "all": found.pop("ended") - began}
    print(f"{name:12} {images:>7,} images {found['rate']:>8.1f}/s, all in {found['all']:.1f} s", file=sys.stderr)
    return found


def race(folder: Path, images: int, rounds: int, rivals: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All contestants, round by round; medians, and every round's rate."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            count = max(250, images // NAIVE_SHARE) if name == "naive" else images
            found[name].append(run_contestant(name, folder, count, python_of(name, rivals)))
    sums = {r["checksum"] for name in names if name != "naive" for r in found[name]}
    assert len(sums) == 1, f"contestants do not give the same patches of the same images: {found}"
    medians = {
        name: {key: median(r[key] for r in runs) for key in ("images", "rate", "cpu_ms", "start", "all")}
        for name, runs in found.items()
    }
    return {name: {**medians[name], "rates": [r["rate"] for r in runs]} for name, runs in found.items()}


def segmentation(photographs: Path) -> dict[str, float]:
    """Milliseconds per image of our boxes (one thread, resizing included), and their mean IoU with the segments that
    scikit-image finds in the full-size image at compactness 0.01."""
    import cv2

    from vgse.patches import decode_image, propose_boxes

    cv2.setNumThreads(1)
    seconds, overlaps = [], []
    for path in sorted(photographs.glob("*.JPEG")):
        image_HW3 = decode_image(path.read_bytes())
        if not seconds:
            propose_boxes(image_HW3)
        began = time.perf_counter()
        boxes_T4 = propose_boxes(image_HW3)
        seconds.append(time.perf_counter() - began)
        overlaps.append(_overlap(boxes_T4, _full_size_boxes(image_HW3)))
    return {"watershed_ms": 1000 * median(seconds), "watershed_iou": float(np.mean(overlaps))}


def _full_size_boxes(image_HW3: np.ndarray) -> np.ndarray:
    from scipy import ndimage
    from skimage.color import rgb2gray
    from skimage.filters import sobel
    from skimage.segmentation import watershed

    from vgse.patches import grid_boxes

    height, width = image_HW3.shape[:2]
    cells_T4 = grid_boxes(height, width, 9)
    middles_T2 = (cells_T4[:, :2] + cells_T4[:, 2:]) // 2
    markers_HW = np.zeros((height, width), np.int32)
    markers_HW[middles_T2[:, 1], middles_T2[:, 0]] = np.arange(1, 10)
    labels_HW = watershed(sobel(rgb2gray(image_HW3)), markers_HW, compactness=0.01)
    return np.array([(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels_HW, 9)])


def _overlap(one_T4: np.ndarray, other_T4: np.ndarray) -> float:
    low_T2, high_T2 = np.maximum(one_T4[:, :2], other_T4[:, :2]), np.minimum(one_T4[:, 2:], other_T4[:, 2:])
    both_T = np.prod(np.clip(high_T2 - low_T2, 0, None), axis=1)
    areas_T = sum(np.prod(boxes_T4[:, 2:] - boxes_T4[:, :2], axis=1) for boxes_T4 in (one_T4, other_T4))
    return float(np.mean(both_T / (areas_T - both_T)))


def main() -> None:
    """Measures, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--folder", type=Path, default=ROOT / ".data/ingest", help="where data is written, 6 GB")
    parser.add_argument("--rivals", type=Path, help="the rivals' environment (FOLDER/rivals)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 8_000])
    parser.add_argument("--rounds", type=int, default=2, help="at the larger size and from S3")
    parser.add_argument("--quick", action="store_true", help="the smaller size, one round; writes no page")
    parser.add_argument("--memory", action="store_true", help="peak memory at 10,000 and 100,000 images too")
    options = parser.parse_args()
    from ingest_memory import peak_memory
    from ingest_s3 import latency

    folder, source = options.folder.resolve(), options.source.resolve()
    photographs = source / "data/imagenet_samples"
    sizes, rounds = (options.sizes[:1], 1) if options.quick else (options.sizes, options.rounds)
    rivals = rivals_python((options.rivals or folder / "rivals").resolve())
    far_size = sizes[0] if options.quick else FAR_SIZE
    for size in (*sizes, far_size):
        write_data(photographs, folder / str(size), size, rivals, KINDS if size in sizes else KINDS[:3])
    boxes = segmentation(photographs)
    races = {
        size: race(folder / str(size), size, rounds if size == max(sizes) else 1, rivals, LINE_UP) for size in sizes
    }
    far = latency(folder / str(far_size), far_size, rounds)
    memory = peak_memory(source, folder / "memory") if options.memory else {}
    larger = races[max(sizes)]
    line = {key: round(larger[ours]["rate"] / larger[other]["rate"], 4) for key, (ours, other) in AGAINST.items()}
    line |= {key: round(value, 4) for key, value in boxes.items()}
    ratios = {kind: found["far"] / found["near"] for kind, found in far.items()}
    line["s3_latency_ratio"] = round(min(ratios["tar"], ratios["parquet"]), 4)
    line["s3_latency_ratio_files"] = round(ratios["files"], 4)
    if memory:
        line["rss_ratio"] = round(memory["ratio"], 4)
    if not options.quick:
        # Folders are this machine's own.
        arguments = [each if "/" not in each else "FOLDER" for each in sys.argv[1:]]
        RESULTS.write_text(report(arguments, boxes, races, far, memory, line))
    print(json.dumps(line))


if __name__ == "__main__":
    main()

"""A crop whose worker processes are killed at random moments, against the same crop undisturbed.

    uv run python benchmarks/bench_crop_kills.py --source FOLDER --folder SCRATCH

FOLDER holds data/cifar100 and data/word_vectors. CIFAR-100's real pictures are enlarged to JPEGs of `--side` pixels, so
that a shard takes its time. At two sizes: one crop undisturbed, one in which SIGKILL takes a busy worker `kills` times,
at moments drawn evenly over the undisturbed time. Seconds are the stage's, without the start of Ray. Writes
benchmarks/results/crop_kills.md and prints one JSON object as its last line: figures of the larger size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from worker_kills import WorkerKiller

from vgse.config_loading import parse_config
from vgse.pipeline.plan import make_plan
from vgse.pipeline.stage import run_stages

RESULTS = Path(__file__).parent / "results" / "crop_kills.md"


def enlarge(source: Path, folder: Path, images: int, side: int) -> None:
    """Writes `images` pictures, as many of each class, one folder per class; those that are there stay."""
    parts = sorted((source / "data" / "cifar100").glob("train-*.parquet"))
    frame = pd.concat([pd.read_parquet(part, columns=["class_name", "image"]) for part in parts])
    classes = frame.class_name.nunique()
    frame = frame.groupby("class_name").head(-(-images // classes)).head(images)
    with ProcessPoolExecutor() as pool:
        writing = partial(_enlarge_one, folder, side)
        list(pool.map(writing, range(len(frame)), frame.class_name, frame.image, chunksize=200))


def _enlarge_one(folder: Path, side: int, number: int, name: str, data: bytes) -> None:
    path = folder / name / f"{number:06d}.jpg"
    if path.exists():
        return
    cv2.setNumThreads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    path.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def crop(source: Path, images: Path, run: Path, killer: WorkerKiller | None = None) -> dict[str, Any]:
    """One crop in a new run directory: the receipt's figures."""
    shutil.rmtree(run, ignore_errors=True)
    data = {
        "images": str(images),
        "classes": str(source / "data" / "cifar100" / "split.yaml"),
        "word_vectors": str(source / "data" / "word_vectors" / "glove_100d_22k.bin"),
    }
    plan = make_plan(parse_config({"run": str(run), "data": data}, "bench"))
    if killer:
        killer.start()
    (receipt,) = run_stages(plan, ["crop"])
    if killer:
        killer.stop()
    return {"seconds": receipt.seconds, "images": receipt.rows_out, **receipt.details}


def measured(source: Path, folder: Path, images: int, kills: int, side: int) -> dict[str, Any]:
    """Undisturbed and disturbed figures at one size."""
    pictures = folder / f"images-{images}-{side}"
    calm = crop(source, pictures, folder / "calm")
    moments = np.random.default_rng(images).uniform(0, calm["seconds"], kills).tolist()
    killer = WorkerKiller("crop_units", moments)
    disturbed = crop(source, pictures, folder / "disturbed", killer)
    assert len(killer.killed) == kills, f"only {len(killer.killed)} workers were killed"
    assert calm["images"] == disturbed["images"] == images
    return {
        "images": images,
        "kills": kills,
        "shards": calm["shards"],
        "calm_s": calm["seconds"],
        "disturbed_s": disturbed["seconds"],
        "ratio": round(disturbed["seconds"] / calm["seconds"], 3),
        "seconds_per_kill": round((disturbed["seconds"] - calm["seconds"]) / kills, 2),
        "same_digest": calm["digest"] == disturbed["digest"],
    }


def report(rows: list[dict[str, Any]], command: str, side: int) -> str:
    """The results as a page."""
    lines = [
        f"| {r['images']:,} | {r['shards']} | {r['kills']} | {r['calm_s']:.1f} | {r['disturbed_s']:.1f} "
        f"| {r['ratio']:.2f} | {r['seconds_per_kill']:.2f} | {'yes' if r['same_digest'] else 'NO'} |"
        for r in rows
    ]
    table = "\n".join(lines)
    return f"""# Crop with its workers killed

CIFAR-100's pictures enlarged to JPEGs of {side} x {side}; SIGKILL takes a busy worker at random moments. A kill costs
the half-done shard and the start of a new process with its imports, whatever the number of images; so the ratio falls
as the run grows. `digest` is that over all (image_id, sha256): equal means the same bytes and boxes for every image.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with `{command}`.

| images | shards | kills | undisturbed s | disturbed s | ratio | s per kill | digest equal |
|---|---|---|---|---|---|---|---|
{table}
"""


def main() -> None:
    """Measures both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[4000, 20000])
    parser.add_argument("--kills", type=int, nargs="+", default=[4, 20])
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--only-images", action="store_true", help="make the pictures and measure nothing")
    options = parser.parse_args()
    for images in options.images:
        enlarge(options.source, options.folder / f"images-{images}-{options.side}", images, options.side)
    if options.only_images:
        return
    sizes = zip(options.images, options.kills, strict=True)
    rows = [measured(options.source, options.folder, images, kills, options.side) for images, kills in sizes]
    command = "uv run python benchmarks/bench_crop_kills.py --source FOLDER --folder SCRATCH"
    RESULTS.write_text(report(rows, command, options.side))
    print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()

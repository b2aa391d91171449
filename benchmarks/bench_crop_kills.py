"""A crop whose worker processes are killed at random moments, against the same crop undisturbed.

    uv run python benchmarks/bench_crop_kills.py --source FOLDER --folder SCRATCH

FOLDER holds data/imagenet_samples, data/cifar100/split.yaml and data/word_vectors. The 250 photographs are enlarged to
the size of a camera's (short side `--side`), and each lies under many names, dealt out to the classes of the split. At
two sizes: one crop undisturbed, one in which SIGKILL takes a busy worker `kills` times, at moments drawn evenly over
nine tenths of the undisturbed time. Seconds are the stage's, without the start of Ray. Writes
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
import yaml
from worker_kills import WorkerKiller

from vgse.config_loading import parse_config
from vgse.pipeline.plan import make_plan
from vgse.pipeline.stage import run_stages

RESULTS = Path(__file__).parent / "results" / "crop_kills.md"


def enlarge(source: Path, folder: Path, images: int, side: int) -> None:
    """Writes the photographs, and `images` links to them, as many in each class's folder."""
    paths = sorted((source / "data" / "imagenet_samples").glob("*.JPEG"))
    (folder / "large").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        large = list(pool.map(partial(_enlarge_one, folder / "large", side), paths))
    split = yaml.safe_load((source / "data" / "cifar100" / "split.yaml").read_text())
    names = sorted(name for part in split.values() for name in part)
    for number in range(images):
        link = folder / "images" / names[number % len(names)] / f"{number:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.hardlink_to(large[number % len(large)])


def _enlarge_one(folder: Path, side: int, path: Path) -> Path:
    cv2.setNumThreads(1)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    scale = side / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    target = folder / f"{path.stem}.jpg"
    target.write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return target


def crop(source: Path, folder: Path, images: int, run: Path, killer: WorkerKiller | None = None) -> dict[str, Any]:
    """One crop in a new run directory: the receipt's figures."""
    shutil.rmtree(run, ignore_errors=True)
    data = {
        "images": str(folder / "images"),
        "images_per_class": images // 100,
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


def measured(source: Path, folder: Path, images: int, kills: int) -> dict[str, Any]:
    """Undisturbed and disturbed figures at one size."""
    calm = crop(source, folder, images, folder / "calm")
    moments = np.random.default_rng(images).uniform(0, 0.9 * calm["seconds"], kills).tolist()
    killer = WorkerKiller("crop_units", moments)
    disturbed = crop(source, folder, images, folder / "disturbed", killer)
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

250 photographs enlarged to short side {side} (JPEG), each under many names; SIGKILL takes a busy worker at random
moments. A kill costs the half-done shard and the start of a new process with its imports, whatever the number of
images; so the ratio falls as the run grows, and rises where images are small and quick. `digest` is that over all
(image_id, sha256): equal means the same bytes and boxes for every image.

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
    parser.add_argument("--side", type=int, default=3000)
    options = parser.parse_args()
    enlarge(options.source, options.folder, max(options.images), options.side)
    # Starts the workers, as whatever ran before would have.
    crop(options.source, options.folder, 200, options.folder / "warm")
    sizes = zip(options.images, options.kills, strict=True)
    rows = [measured(options.source, options.folder, images, kills) for images, kills in sizes]
    command = "uv run python benchmarks/bench_crop_kills.py --source FOLDER --folder SCRATCH"
    RESULTS.write_text(report(rows, command, options.side))
    print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()

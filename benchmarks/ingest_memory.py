"""Peak memory of `vgse crop` at 10,000 and 100,000 images: of the driver, and of the largest worker."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from line_ups import CONFIG, ROOT
from process_tree import tree

SIZES = (10_000, 100_000)
PAUSE_S = 0.2
ROWS_PER_FILE, ROWS_PER_GROUP = 10_000, 500


def peak_memory(source: Path, folder: Path) -> dict[str, Any]:
    """Peaks in bytes by size, and the larger of the driver's and the largest worker's ratio between the sizes.

    What is counted is anonymous resident memory (`RssAnon`): heaps and stacks, neither mapped libraries nor the pages
    of the object store, which all processes share.
    """
    found: dict[int, dict[str, float]] = {}
    for size in SIZES:
        images = folder / f"images-{size}"
        _write_images(source, images, size)
        found[size] = _watched_crop(source, images, folder / f"run-{size}")
    small, large = (found[size] for size in SIZES)
    return {"sizes": found, "ratio": max(large[who] / small[who] for who in ("driver", "worker"))}


def _write_images(source: Path, folder: Path, count: int) -> None:
    """CIFAR-100's images as Parquet, over and over under distinct ids."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((source / "data/cifar100").glob("*.parquet"))
    tables = [pq.read_table(path, columns=["class_name", "image"]) for path in paths]
    table = pa.concat_tables(tables).combine_chunks()
    for number, start in enumerate(range(0, count, ROWS_PER_FILE)):
        rows = [row % table.num_rows for row in range(start, min(count, start + ROWS_PER_FILE))]
        part = table.take(rows).append_column("image_id", pa.array([f"{start + i:07d}" for i in range(len(rows))]))
        pq.write_table(part, folder / f"{number:04d}.parquet", row_group_size=ROWS_PER_GROUP)
    (folder / "done").touch()


def _watched_crop(source: Path, images: Path, run: Path) -> dict[str, float]:
    """`vgse crop` in a process of its own, and the peaks of its process tree."""
    subprocess.run(["rm", "-rf", str(run)], check=True)
    cifar = source / "data/cifar100"
    command = [
        sys.executable, "-m", "vgse.cli", "crop", str(CONFIG), "--run", str(run), "--data.images", str(images),
        "--data.test-images", "--data.classes", str(cifar / "split.yaml"),
        "--data.word-vectors", str(source / "data/word_vectors/glove_100d_22k.bin"),
    ]  # fmt: skip
    began = time.monotonic()
    peaks = {"driver": 0.0, "worker": 0.0, "driver_rss": 0.0, "worker_rss": 0.0, "ray": 0.0}
    with subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            _sample(process.pid, peaks)
            time.sleep(PAUSE_S)
    assert process.returncode == 0, f"vgse crop ended with {process.returncode}"
    return {**peaks, "seconds": time.monotonic() - began}


def _sample(driver: int, peaks: dict[str, float]) -> None:
    """Raises the peaks to what the processes hold now."""
    for process in tree(driver):
        try:
            title = Path(f"/proc/{process}/cmdline").read_bytes()
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:  # It has ended meanwhile.
            continue
        who = "driver" if process == driver else "worker" if title.startswith(b"ray::") else "ray"
        peaks[who] = max(peaks[who], _bytes(status, "RssAnon"))
        if who != "ray":
            peaks[f"{who}_rss"] = max(peaks[f"{who}_rss"], _bytes(status, "VmRSS"))


def _bytes(status: str, field: str) -> float:
    return next((1024.0 * int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")), 0.0)

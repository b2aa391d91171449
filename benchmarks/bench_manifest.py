"""The manifest of an ImageNet-size data set: seconds and peak memory of the process that builds it.

    python benchmarks/bench_manifest.py [--classes 1000] [--per-class 1300] [--latency-ms 20] [--folder /tmp/tree]

Each source is listed in a process of its own, at a tenth of the classes and at all of them: pages of a listing server
on this machine (made names, real requests), and a real tree of empty files, made here and removed afterwards. The
process lists, checks, ranks, holds out, sorts, digests and writes the manifest, and cuts it into units of work; its
peak is the kernel's (ru_maxrss), interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.listing_server import class_name, image_name

ROWS_PER_SHARD = 3600


def measure(source: str, classes: int) -> dict[str, Any]:
    """Builds the manifest of `source` in this process."""
    from vgse.config import DataConfig
    from vgse.data.manifest import build_manifest, manifest_digest, manifest_table
    from vgse.data.splits import ClassSplit
    from vgse.data.units import cut_units
    from vgse.storage import Storage

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # noqa: E731
    names = [class_name(i) for i in range(classes)]
    split = ClassSplit(
        tuple(names[: classes // 2]), tuple(names[classes // 2 : -classes // 5]), tuple(names[-classes // 5 :])
    )
    data = DataConfig(images=[source], classes="c", word_vectors="w")
    storage, before, started = Storage(), peak(), time.monotonic()
    frame = build_manifest(storage, data, [split])
    built = time.monotonic() - started
    digest = manifest_digest(frame)
    with tempfile.TemporaryDirectory() as folder:
        size = storage.write_table(f"{folder}/manifest.parquet", manifest_table(frame))
    rows = sum(len(frame.iloc[unit]) for unit in cut_units(frame, ROWS_PER_SHARD))
    assert rows == len(frame)
    assert frame.image_id.is_unique
    return {
        "images": len(frame),
        "seconds": round(built, 1),
        "seconds_all": round(time.monotonic() - started, 1),
        "peak_mb": round(peak()),
        "before_mb": round(before),
        "file_mb": round(size / 2**20, 1),
        "digest": digest,
    }


def in_own_process(source: str, classes: int, environment: dict[str, str]) -> dict[str, Any]:
    """`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, "--measure", source, "--classes", str(classes)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def listing_server(classes: int, per_class: int, latency_ms: float) -> Iterator[dict[str, str]]:
    """The AWS variables that lead to a server in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.listing_server",
        "--classes",
        str(classes),
        "--per-class",
        str(per_class),
    ]
    command += ["--latency-ms", str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "any-key",
                   "AWS_SECRET_ACCESS_KEY": "any-secret", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
        finally:
            process.terminate()


@contextmanager
def tree(folder: Path, classes: int, per_class: int) -> Iterator[str]:
    """A folder tree of empty files."""
    try:
        for number in range(classes):
            place = folder / "train" / class_name(number)
            place.mkdir(parents=True)
            for image in range(per_class):
                os.close(os.open(place / image_name(number, image), os.O_CREAT | os.O_WRONLY))
        yield str(folder / "train")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Prints a line per source and size, and all of it as JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=1300)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--folder", default=None, help="a new folder for the tree; a temporary one by default")
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.classes)))
        return
    result: dict[str, Any] = {}
    for classes in (given.classes // 10, given.classes):
        with listing_server(classes, given.per_class, given.latency_ms) as environment:
            result[f"s3_{classes}"] = in_own_process("s3://bucket/train", classes, environment)
        with tree(Path(given.folder or tempfile.mkdtemp(prefix="vgse-tree-")), classes, given.per_class) as place:
            result[f"local_{classes}"] = in_own_process(place, classes, {})
        for kind in ("s3", "local"):
            print(f"{kind:6} {classes:>5} classes: {result[f'{kind}_{classes}']}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

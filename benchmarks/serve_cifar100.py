"""Stages CIFAR-100 as a bucket of single PNG files and serves it as S3.

    uv run python benchmarks/serve_cifar100.py                                       # serve until Ctrl-C
    uv run python benchmarks/serve_cifar100.py -- vgse run jobs/configs/cifar100.yaml   # run one command against it

The source is a folder with the images as Parquet (`path`, `class_name`, `image`), split.yaml, word vectors and weights:
`../shared` beside the checkout, or --source.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from s3_server import serve_s3

BUCKET = "vgse-data"


def stage(source: Path, folder: Path) -> Path:
    """Writes folder/vgse-data: cifar100/{train,test}/CLASS/*.png, split.yaml, class texts, words and weights; once."""
    bucket = folder / BUCKET
    done = bucket / "cifar100" / "split.yaml"
    texts = source / "data/cifar100/class_texts.jsonl"
    if texts.exists() and not (bucket / "cifar100" / texts.name).exists():
        (bucket / "cifar100").mkdir(parents=True, exist_ok=True)
        shutil.copy(texts, bucket / "cifar100")
    if done.exists():
        return bucket
    for part in ("train", "test"):
        for parquet in sorted((source / "data/cifar100").glob(f"{part}-*.parquet")):
            _unpack(parquet, bucket / "cifar100")
    (bucket / "weights").mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "data/word_vectors/glove_100d_22k.bin", bucket / "glove_100d_22k.bin")
    shutil.copy(source / "weights/tf_efficientnet_lite0.safetensors", bucket / "weights")
    partial = done.with_suffix(".partial")
    shutil.copy(source / "data/cifar100/split.yaml", partial)
    partial.replace(done)
    return bucket


def _unpack(parquet: Path, folder: Path) -> None:
    for batch in pq.ParquetFile(parquet).iter_batches(columns=["path", "image"]):
        for path, image in zip(batch["path"].to_pylist(), batch["image"].to_pylist(), strict=True):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image)


def main() -> int:
    """Stages, serves, and runs the given command or waits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--folder", type=Path, default=Path(".data"), help="where the bucket is staged")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("command", nargs="*", help="after --: a command to run against the bucket")
    options = parser.parse_args()
    if not (options.source / "data/cifar100").is_dir():
        print(f"error: {options.source} holds no data/cifar100\n  -> give --source", file=sys.stderr)
        return 2
    bucket = stage(options.source, options.folder)
    with serve_s3(options.folder, options.port) as server:
        if options.command:
            return subprocess.call(options.command, env={**os.environ, **server.environment})
        print(f"{bucket} is served at {server.endpoint} as s3://{BUCKET}; reach it with")
        print("\n".join(f"export {name}={value}" for name, value in server.environment.items()), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main())

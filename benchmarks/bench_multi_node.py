"""CIFAR-100 from a bucket by `ray job submit` on three nodes against one: who did what, and the same results.

    uv run python benchmarks/bench_multi_node.py --folder /tmp/nodes [--images 10]

Starts `ray start --head` and two more nodes of one logical CPU each (see local_nodes.py: no node sees another's
temporary files), submits jobs/run.py with jobs/configs/cifar100.yaml against a local S3 server (data and run directory
in the bucket, one class split, two training workers), then the same on a single node of three CPUs. Compares the
digests of everything that both leave, writes benchmarks/results/multi_node.md and prints one JSON object as its last
line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from local_nodes import LocalNodes, local_nodes
from s3_server import S3Server, serve_s3
from serve_cifar100 import BUCKET, stage

from vgse.receipts import STAGES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/multi_node.md"
# One logical CPU a node; relate hands its 20 classes to tasks as it would thousands.
SETTINGS = ("--data.class-splits", "1", "--resources.workers", "2", "--resources.relate-tasks-from", "1")


def submit(cluster: LocalNodes, server: S3Server, run: str, overrides: tuple[str, ...]) -> float:
    """Submits the run as a job and waits for it; seconds.

    Raises:
        RuntimeError: the job failed.
    """
    started = time.monotonic()
    command = ["python", "jobs/run.py", "jobs/configs/cifar100.yaml", "--run", run, *overrides]
    cluster.submit(*command, environment=server.environment)
    return time.monotonic() - started


def digests(run: Path) -> dict[str, str]:
    """What a run left, one digest for each kind of result."""
    shards = sorted((run / "patches").glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard, columns=["image_id", "sha256"]).to_pylist()]
    manifest = pq.read_table(run / "manifest.parquet", columns=["image_id", "class_name", "role"])
    return {
        "manifest": _digest(json.dumps(manifest.to_pydict()).encode()),
        "patches": _digest(json.dumps(sorted((row["image_id"], row["sha256"]) for row in rows)).encode()),
        "patch features": _files(run / "features/patches"),
        "image features": _files(run / "features/images"),
        "network": _tensors(run / "clustering/split-0-final"),
        "seen embeddings": _arrays(run / "embeddings/split-0-final.npz", "phi_SK"),
        "relations": _digest(np.stack(pq.read_table(run / "relations.parquet")["r"].to_numpy()).tobytes()),
        "class embeddings": _arrays(run / "class_embeddings.npz", "class_embeddings"),
        "evaluation.json": _digest((run / "evaluation.json").read_bytes()),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _files(folder: Path) -> str:
    return _digest(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in sorted(folder.glob("part-*"))))


def _tensors(folder: Path) -> str:
    from safetensors.numpy import load_file

    (newest,) = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)[-1:]
    return _digest(b"".join(array.tobytes() for _, array in sorted(load_file(newest).items())))


def _arrays(file: Path, name: str) -> str:
    with np.load(file, allow_pickle=False) as arrays:
        return _digest(arrays[name].tobytes())


def receipts(run: Path) -> dict[str, dict[str, Any]]:
    """The receipts of all stages."""
    return {name: json.loads((run / f"receipts/{name}.json").read_text()) for name in STAGES}


def table(several: dict[str, dict[str, Any]], single: dict[str, dict[str, Any]]) -> str:
    """Tasks by node and stage."""
    nodes = sorted({node for receipt in several.values() for node in receipt["details"]["nodes"]})
    lines = [f"| stage | {' | '.join(f'node {n}' for n in range(1, len(nodes) + 1))} | seconds | one node, seconds |"]
    lines.append("|---" * (len(nodes) + 3) + "|")
    for stage_name, receipt in several.items():
        counts = [str(receipt["details"]["nodes"].get(node, 0)) for node in nodes]
        seconds = f"{receipt['seconds']:.0f} | {single[stage_name]['seconds']:.0f}"
        lines.append(f"| {stage_name} | {' | '.join(counts)} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Runs both, compares, writes the page and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--folder", type=Path, required=True, help="a short path for the bucket and the nodes' files")
    parser.add_argument("--images", type=int, default=10, help="images per class, and test images; 240 for all")
    options = parser.parse_args()
    stage(options.source, options.folder / "s3")
    overrides = (*SETTINGS, "--data.images-per-class", str(options.images))
    seconds: dict[str, float] = {}
    isolated = False
    shutil.rmtree(options.folder / "s3" / BUCKET / "runs", ignore_errors=True)
    with serve_s3(options.folder / "s3") as server:
        for name, nodes, cpus in (("several", 3, 1), ("single", 1, 3)):
            with local_nodes(nodes, cpus, options.folder / name) as cluster:
                isolated = cluster.isolated
                seconds[name] = submit(cluster, server, f"s3://{BUCKET}/runs/{name}", overrides)
    runs = {name: options.folder / "s3" / BUCKET / "runs" / name for name in seconds}
    found = {name: digests(run) for name, run in runs.items()}
    same = {kind: found["several"][kind] == found["single"][kind] for kind in found["single"]}
    of = {name: receipts(run) for name, run in runs.items()}
    nodes_by_stage = {name: len(receipt["details"]["nodes"]) for name, receipt in of["several"].items()}
    images = of["several"]["crop"]["rows_in"]
    RESULTS.write_text(report(of, found, same, images, options.images, isolated, seconds))
    result = {"images": images, "isolated": isolated, "nodes_by_stage": nodes_by_stage, "same": same}
    print(json.dumps({**result, "all_same": all(same.values()), "seconds": seconds}))


def report(
    of: dict[str, dict[str, dict[str, Any]]],
    found: dict[str, dict[str, str]],
    same: dict[str, bool],
    images: int,
    per_class: int,
    isolated: bool,
    seconds: dict[str, float],
) -> str:
    """The results page."""
    apart = (
        "each node in a mount namespace with its own, empty folder at TMPDIR\n"
        "(downloads, unpacked code and Ray's session of one node are invisible to the others)"
        if isolated
        else "all on one file system (this user may not isolate them)"
    )
    compared = "\n".join(
        f"| {kind} | `{found['several'][kind]}` | `{found['single'][kind]}` | {'yes' if equal else '**no**'} |"
        for kind, equal in same.items()
    )
    return f"""# Several nodes

{date.today()}, {os.cpu_count()} cores ({platform.machine()}, {platform.system()}). Command:

    uv run python benchmarks/bench_multi_node.py --folder /tmp/nodes --images {per_class}

`ray start --head` and two `ray start --address` on this machine, one logical CPU each, {apart}.
`ray job submit --working-dir . -- python jobs/run.py jobs/configs/cifar100.yaml` with data and run directory in S3
(`rclone serve s3`), {images:,} images of CIFAR-100 in 100 classes, one class split (64 train, 16 val, 20 unseen), two
training workers that average their gradients over gloo. Then the same job on one node of three logical CPUs.

## Tasks by node

As the tasks report themselves (`details.nodes` of each stage's receipt; `vgse status` names the number of nodes).
Units: shards for crop, encode and embed, fits for cluster, chunks of classes for relate, episodes and groups of arms
for evaluate.

{table(of["several"], of["single"])}

The job took {seconds["several"]:.0f} s on three nodes and {seconds["single"]:.0f} s on one. All nodes share the same
two cores, so this shows no speed-up and should not.

## The same results

| what | three nodes | one node | same |
|---|---|---|---|
{compared}

`relate` solves {of["several"]["relate"]["rows_in"]} classes here, which by default it does in the driver; the job sets
`resources.relate_tasks_from: 1` so that tasks do it.
"""


if __name__ == "__main__":
    main()

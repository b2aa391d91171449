"""How the stages scale: measured on 1, 2 and 4 nodes on this machine, simulated for 1 to 256 nodes of a cloud.

    uv run python benchmarks/bench_scaling.py --folder /tmp/scaling

Measures what a row costs without Ray (stage_costs.py), what Ray costs (scaling_probe.py), and crop, encode and relate
on 1, 2 and 4 nodes of one logical CPU each that share this machine's cores (local_nodes.py). The model
(scaling_model.py) gets the former and must find the latter; then it is asked for ImageNet-21K transfer on up to 256
nodes of 16 CPUs.
Writes benchmarks/results/scaling.md and scaling.png and prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from local_nodes import LocalNodes, local_nodes
from s3_server import S3Server, serve_s3
from scaling_model import Cluster, Work, seconds
from scaling_report import write_report
from scaling_stages import Costs, bound_by, imagenet_rates
from serve_cifar100 import BUCKET, stage
from stage_costs import (
    class_costs,
    embed_costs,
    image_costs,
    normal_equation_costs,
    read_costs,
    start_costs,
    training_costs,
)

from vgse.config import StorageConfig
from vgse.data.words import load_vocabulary
from vgse.storage import Storage

ROOT = Path(__file__).resolve().parents[1]
NODES = (1, 2, 4)
IMAGES, CLASSES = 10, 100
_IMPORTS = "import ray, pandas, pyarrow, cv2, vgse.pipeline.crop, vgse.patches.regions"
_NETWORK = (
    "import ray, torch, vgse.pipeline.encode_shard; from vgse.clustering.backbones import build_backbone; "
    "from pathlib import Path; build_backbone('{backbone}', weights=Path('{weights}'), input_size={size})"
)


def costs(source: Path, server: S3Server) -> Costs:
    """All costs per row, of CIFAR-100's images and of full photographs."""
    bucket = server.folder / BUCKET
    every = sorted((bucket / "cifar100/train").rglob("*.png"))
    small = every[:: len(every) // 256][:256]
    photographs = sorted((source / "data/imagenet_samples").glob("*.JPEG"))[::4]
    weights = bucket / "weights/tf_efficientnet_lite0.safetensors"
    lite = "timm/tf_efficientnet_lite0"
    storage = Storage(StorageConfig(endpoint_url=server.endpoint))
    uris = [f"s3://{file.relative_to(server.folder)}" for file in small]
    client_s, server_s = read_costs(storage, uris, server.pid)
    words = load_vocabulary(source / "data/word_vectors/glove_100d_22k.bin").vectors  # type: ignore[attr-defined]
    image_s, merge_s = normal_equation_costs(2048, 1000)
    bare = start_costs("import ray")
    return Costs(
        small=image_costs(small, lite, weights, 96, 48),
        large=image_costs(photographs, "resnet50", None, 224, 8),
        read_client_s=client_s,
        read_server_s=server_s,
        crop_start_s=start_costs(_IMPORTS) - bare,
        encode_start_s=start_costs(_NETWORK.format(backbone=lite, weights=weights, size=96)) - bare,
        train_patch_s=training_costs(2048, 500, bank=16_384),
        embed_image_s=embed_costs(2048, 500),
        class_s=class_costs(words.astype("float64"), 1000, 4000),
        statistics_s=image_s,
        statistics_merge_s=merge_s,
    )


def on_nodes(cluster: LocalNodes, server: S3Server, run: str, source: Path) -> dict[str, Any]:
    """Stage seconds by receipts, the probe's figures, and tasks by node."""
    environment = {**os.environ, **server.environment, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
    vocabulary = source / "data/word_vectors/glove_100d_22k.bin"
    command = [sys.executable, str(ROOT / "benchmarks/scaling_probe.py"), str(vocabulary)]
    probe = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
    found: dict[str, Any] = json.loads(probe.stdout.strip().splitlines()[-1])
    receipts = server.folder / run.removeprefix("s3://") / "receipts"
    for name in ("crop", "encode"):
        command = [sys.executable, "-m", "vgse.cli", name, "jobs/configs/cifar100.yaml", "--run", run]
        command += ["--data.images-per-class", str(IMAGES), "--data.class-splits", "1"]
        subprocess.run(command, env=environment, check=True, cwd=ROOT, timeout=900)
        receipt = json.loads((receipts / f"{name}.json").read_text())
        found[name] = {
            "seconds": receipt["seconds"], "rows": receipt["rows_out"], "nodes": len(receipt["details"]["nodes"]),
            "tasks": sum(receipt["details"]["nodes"].values()),
        }  # fmt: skip
    return found


def local_works(costs: Costs, probe: dict[str, Any], rows: int) -> dict[str, Work]:
    """The stages of the measured runs, with Ray's costs as found on one node."""
    read_s = costs.read_client_s + costs.read_server_s
    tasks, actors, plain = (probe[kind] for kind in ("tasks", "actors", "plain"))
    shards = probe["encode"]["tasks"]
    return {
        "crop": Work(
            rows, shards, costs.small.crop_s + read_s, slot_cpu_s=costs.crop_start_s, task_cpu_s=tasks["task_s"],
            before_s=tasks["start_s"],
        ),
        "encode": Work(
            rows, shards, costs.small.encode_s, slot_cpu_s=costs.encode_start_s, task_cpu_s=actors["task_s"],
            before_s=actors["start_s"],
        ),
        "relate": Work(20_842, 21, costs.class_s, task_cpu_s=plain["task_s"], before_s=plain["start_s"]),
    }  # fmt: skip


def compare(costs: Costs, measured: dict[int, dict[str, Any]]) -> dict[str, dict[int, tuple[float, float]]]:
    """Rows per second by stage and nodes: measured, and as the model has it."""
    rows = measured[1]["crop"]["rows"]
    works = local_works(costs, measured[1], rows)
    table: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in works}
    for nodes, found in measured.items():
        cluster = Cluster(nodes, 1, cores=os.cpu_count() or 1, latency_s=0.002)
        for name, work in works.items():
            # Chunks of classes depend on the CPUs there are.
            if name == "relate":
                work = replace(work, tasks=-(-20_842 // max(256, min(1024, -(-20_842 // (4 * nodes))))))
            took = found["relate_s"] if name == "relate" else found[name]["seconds"]
            table[name][nodes] = (work.rows / took, work.rows / seconds(work, cluster))
    return table


def main() -> None:
    """Measures, models, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--folder", type=Path, required=True, help="a short path for the bucket and the nodes' files")
    options = parser.parse_args()
    stage(options.source, options.folder / "s3")
    shutil.rmtree(options.folder / "s3" / BUCKET / "runs", ignore_errors=True)
    kept = options.folder / "measured.json"
    with serve_s3(options.folder / "s3") as server:
        os.environ.update(server.environment)
        found = costs(options.source, server)
        print(json.dumps(asdict(found)), flush=True)
        measured = {}
        for nodes in NODES:
            with local_nodes(nodes, 1, options.folder / f"on-{nodes}") as cluster:
                measured[nodes] = on_nodes(cluster, server, f"s3://{BUCKET}/runs/scaling-{nodes}", options.source)
            print(nodes, json.dumps(measured[nodes]), flush=True)
    kept.write_text(json.dumps({"costs": asdict(found), "measured": measured}))
    checked = compare(found, measured)
    rates = imagenet_rates(found, measured)
    bounds = bound_by(found, measured)
    write_report(found, measured, checked, rates, bounds)
    worst = max(abs(model / real - 1) for points in checked.values() for real, model in points.values())
    at_256 = {name: round(points[256], 1) for name, points in rates.items()}
    print(json.dumps({"worst_error": round(worst, 3), "rows_per_s_at_256": at_256, "bound_by": bounds}))


if __name__ == "__main__":
    main()

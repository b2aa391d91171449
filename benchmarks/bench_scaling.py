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
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from local_nodes import LocalNodes, local_nodes
from s3_server import S3Server, serve_s3
from scaling_model import Cluster, Work, seconds
from scaling_report import write_report
from scaling_stages import UNSEEN_CLASSES, Costs, bound_by, imagenet_rates
from serve_cifar100 import BUCKET, stage
from stage_costs import (
    ImageCosts,
    class_costs,
    compile_costs,
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
# Stages and images of a class; there are as many test images again, so 200 times as many in all.
STAGES = (("crop", 10), ("encode", 10), ("crop", 120))
RELATE = "relate, 20,842"
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
        process_start_s=bare,
        crop_start_s=start_costs(_IMPORTS) - bare,
        compile_s=compile_costs(),
        encode_start_s=start_costs(_NETWORK.format(backbone=lite, weights=weights, size=96)) - bare,
        train_patch_s=training_costs(2048, 500, bank=16_384),
        embed_image_s=embed_costs(2048, 500),
        class_s=class_costs(words.astype("float64"), 1000, 4000),
        statistics_s=image_s,
        statistics_merge_s=merge_s,
    )


def idle_load(seconds: float = 5.0) -> float:
    """Cores that are busy while nothing is asked of the nodes: what their own processes take."""

    def busy() -> int:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        # Without idle and iowait; guests are counted in user already.
        return sum(fields[:8]) - fields[3] - fields[4]

    time.sleep(seconds)
    before = busy()
    time.sleep(seconds)
    return (busy() - before) / os.sysconf("SC_CLK_TCK") / seconds


def on_nodes(cluster: LocalNodes, server: S3Server, run: str, source: Path) -> dict[str, Any]:
    """The load of idle nodes, the probe's figures, and of every stage and size seconds by its receipt and tasks."""
    idle = idle_load()
    vocabulary = source / "data/word_vectors/glove_100d_22k.bin"
    probe = ["python", str(ROOT / "benchmarks/scaling_probe.py"), str(vocabulary.resolve())]
    log = cluster.submit(*probe, environment=server.environment)
    found: dict[str, Any] = json.loads(next(line for line in reversed(log) if line.startswith("{")))
    found["idle_load"] = idle
    for stage_name, images in STAGES:
        there = f"{run}-{images}"
        command = ["python", f"jobs/{stage_name}.py", "jobs/configs/cifar100.yaml", "--run", there]
        command += ["--data.images-per-class", str(images), "--data.class-splits", "1"]
        cluster.submit(*command, environment=server.environment)
        file = server.folder / there.removeprefix("s3://") / f"receipts/{stage_name}.json"
        receipt = json.loads(file.read_text())
        of_nodes = receipt["details"]["nodes"]
        found[f"{stage_name}, {receipt['rows_out']:,}"] = {
            "seconds": receipt["seconds"], "rows": receipt["rows_out"], "nodes": len(of_nodes),
            "tasks": sum(of_nodes.values()),
        }  # fmt: skip
    found[RELATE] = {"seconds": found.pop("relate_s"), "rows": UNSEEN_CLASSES}
    return found


def local_work(name: str, costs: Costs, found: dict[str, Any], one: dict[str, Any]) -> Work:
    """A stage of the measured runs as the model sees it; costs of Ray are those of `one` node."""
    rows, read_s = found[name]["rows"], costs.read_client_s + costs.read_server_s
    if name == RELATE:
        # Chunks of classes depend on the CPUs there are.
        tasks = -(-rows // max(256, min(1024, -(-rows // (4 * found["nodes"])))))
        return Work(rows, tasks, costs.class_s, task_cpu_s=one["plain"]["task_s"], before_s=one["plain"]["start_s"])
    # The driver's first pipeline on one node starts a worker there.
    if name.startswith("crop"):
        start, saved = costs.crop_start_s + costs.compile_s, costs.compile_s
        row_s, before_s, task_s = costs.small.crop_s + read_s, costs.compile_s, one["tasks"]["task_s"]
    else:
        start, saved = costs.encode_start_s, 0.0
        row_s, before_s, task_s = costs.small.encode_s, 0.0, one["actors"]["task_s"]
    return Work(
        rows, found[name]["tasks"], row_s, slot_cpu_s=costs.process_start_s + start,
        first_node_saves_s=costs.process_start_s + saved, task_cpu_s=task_s, before_s=one["first_s"] + before_s,
    )  # fmt: skip


def compare(costs: Costs, measured: dict[int, dict[str, Any]]) -> dict[str, dict[int, tuple[float, float]]]:
    """Rows per second by stage and nodes: measured, and as the model has it."""
    table: dict[str, dict[int, tuple[float, float]]] = {}
    for nodes, found in measured.items():
        cluster = Cluster(nodes, 1, cores=(os.cpu_count() or 1) - found["idle_load"], latency_s=0.002)
        for name in (name for name in found if isinstance(found[name], dict) and "rows" in found[name]):
            rows = found[name]["rows"]
            model = seconds(local_work(name, costs, found, measured[1]), cluster)
            table.setdefault(name, {})[nodes] = (rows / found[name]["seconds"], rows / model)
    return table


def measure(source: Path, folder: Path) -> tuple[Costs, dict[int, dict[str, Any]]]:
    """The costs, and what was found on each number of nodes; kept in `folder`/measured.json too."""
    stage(source, folder / "s3")
    shutil.rmtree(folder / "s3" / BUCKET / "runs", ignore_errors=True)
    measured = {}
    with serve_s3(folder / "s3") as server:
        os.environ.update(server.environment)
        found = costs(source, server)
        print(json.dumps(asdict(found)), flush=True)
        for nodes in NODES:
            with local_nodes(nodes, 1, folder / f"on-{nodes}") as cluster:
                measured[nodes] = on_nodes(cluster, server, f"s3://{BUCKET}/runs/scaling-{nodes}", source)
            print(nodes, json.dumps(measured[nodes]), flush=True)
    (folder / "measured.json").write_text(json.dumps({"costs": asdict(found), "measured": measured}))
    return found, measured


def kept(folder: Path) -> tuple[Costs, dict[int, dict[str, Any]]]:
    """What `measure` left in `folder`."""
    read = json.loads((folder / "measured.json").read_text())
    images = {size: ImageCosts(**read["costs"].pop(size)) for size in ("small", "large")}
    return Costs(**images, **read["costs"]), {int(nodes): found for nodes, found in read["measured"].items()}


def main() -> None:
    """Measures, models, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--folder", type=Path, required=True, help="a short path for the bucket and the nodes' files")
    parser.add_argument("--kept", action="store_true", help="model again what the folder's last run has measured")
    options = parser.parse_args()
    found, measured = kept(options.folder) if options.kept else measure(options.source, options.folder)
    checked = compare(found, measured)
    rates = imagenet_rates(found, measured)
    bounds = bound_by(found, measured)
    write_report(found, measured, checked, rates, bounds)
    worst = max(abs(model / real - 1) for points in checked.values() for real, model in points.values())
    at_256 = {name: round(points[256], 1) for name, points in rates.items()}
    print(json.dumps({"worst_error": round(worst, 3), "rows_per_s_at_256": at_256, "bound_by": bounds}))


if __name__ == "__main__":
    main()

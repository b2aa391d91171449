"""The stages of ImageNet-21K transfer (jobs/configs/imagenet.yaml) as the model sees them, and what binds each.

1,000 seen and 20,842 unseen classes, 1.39 M images, nodes of 16 CPUs without GPUs. What is not measured is assumed and
said so: the network of a node (12.5 Gbit/s), what an object store serves (100 GB/s, 5,500 requests a second, which is
what S3 promises for one prefix before it splits it) and its latency (30 ms).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from scaling_model import Cluster, Training, Work, seconds, training_seconds
from stage_costs import ImageCosts

COUNTS = tuple(2**power for power in range(9))
IMAGES, SEEN_IMAGES, UNSEEN_CLASSES = 1_393_693, 1_281_167, 20_842
SHARD, PATCHES, EPOCHS, BATCH, CLUSTERS, FEATURES = 3600, 9, 15, 8192, 500, 2048
CPUS = 16
# Images of one row group, where they lie in Parquet files; two requests each.
ROW_GROUP = 100
CLOUD = Cluster(1, CPUS, node_bytes_s=12.5e9 / 8, store_bytes_s=1e11, store_requests_s=5500, latency_s=0.03)
# The driver's part of each stage: processor seconds that driver_work.py took at this size (results/dry_run.md).
DRIVER_S = {
    "crop": 0.4, "committed_images": 5.6, "encode": 0.2, "cluster": 2.3, "embed": 4.7, "evaluate": 1.7,
}  # fmt: skip
PLAN_S = 3.4
# Starting a group of training workers, as a CIFAR-100 run shows it.
GROUP_START_S = 30.0


@dataclass(frozen=True)
class Costs:
    """Of one row of each kind, in processor seconds where not said otherwise; see stage_costs.py."""

    small: ImageCosts
    large: ImageCosts
    read_client_s: float
    read_server_s: float
    process_start_s: float
    crop_start_s: float
    compile_s: float
    encode_start_s: float
    train_patch_s: float
    embed_image_s: float
    class_s: float
    statistics_s: float
    statistics_merge_s: float


def works(costs: Costs, measured: dict[int, dict[str, Any]], nodes: int) -> dict[str, Work]:
    """The stages but for training; how some are cut into tasks depends on the number of nodes."""
    large, shards, cpus = costs.large, -(-IMAGES // SHARD), CPUS * nodes
    # With several nodes the time of a task that does nothing is the driver's: it hands out one after the other.
    launch = {kind: measured[max(measured)][kind]["task_s"] for kind in ("tasks", "actors", "plain")}
    start = {kind: measured[1][kind]["start_s"] for kind in launch}
    # The plan is made once for all stages of a run and not counted to any.
    listing = DRIVER_S["committed_images"]
    cropper_s = costs.process_start_s + costs.crop_start_s + costs.compile_s
    worker_s, encoder_s = costs.process_start_s + costs.crop_start_s, costs.process_start_s + costs.encode_start_s
    patch_bytes = 2 * FEATURES * PATCHES
    chunk = max(256, min(1024, -(-UNSEEN_CLASSES // (4 * cpus))))
    slices = min(-(-SEEN_IMAGES // 8192), 2 * cpus)
    statistics_bytes = 8 * (FEATURES**2 + FEATURES * 1000)
    return {
        "crop": Work(
            IMAGES, shards, large.crop_s + costs.read_client_s, large.source_bytes + large.stored_bytes, 1.0,
            slot_cpu_s=cropper_s, before_s=start["tasks"] + listing + DRIVER_S["crop"], launch_s=launch["tasks"],
        ),
        "crop (Parquet)": Work(
            IMAGES, shards, large.crop_s, large.source_bytes + large.stored_bytes,
            task_requests=2 + 2 * SHARD / ROW_GROUP, slot_cpu_s=cropper_s,
            before_s=start["tasks"] + listing + DRIVER_S["crop"], launch_s=launch["tasks"],
        ),
        "encode": Work(
            IMAGES, shards, large.encode_s, large.stored_bytes + large.feature_bytes, slot_cpu_s=encoder_s,
            before_s=start["actors"] + listing + DRIVER_S["encode"], launch_s=launch["actors"],
        ),
        "embed": Work(
            IMAGES, shards, costs.embed_image_s, patch_bytes, slot_cpu_s=encoder_s,
            before_s=start["actors"] + listing + DRIVER_S["embed"], launch_s=launch["actors"],
        ),
        "relate": Work(
            UNSEEN_CLASSES, -(-UNSEEN_CLASSES // chunk), costs.class_s, task_requests=0, slot_cpu_s=worker_s,
            before_s=start["plain"] + listing, launch_s=launch["plain"],
        ),
        "evaluate (statistics)": Work(
            SEEN_IMAGES, slices, costs.statistics_s, 2 * FEATURES, slot_cpu_s=worker_s,
            before_s=start["tasks"] + listing + DRIVER_S["evaluate"], launch_s=launch["tasks"],
            merge_s=costs.statistics_merge_s + statistics_bytes / CLOUD.node_bytes_s,
        ),
    }  # fmt: skip


def training(costs: Costs) -> Training:
    """The heads on cached features, one worker a node."""
    rows = SEEN_IMAGES * PATCHES
    heads = FEATURES * CLUSTERS + CLUSTERS * (1000 + 300)
    before = GROUP_START_S + DRIVER_S["committed_images"] + DRIVER_S["cluster"]
    return Training(
        rows, EPOCHS, BATCH, costs.train_patch_s, 2.0 * FEATURES * rows, 4.0 * BATCH * (FEATURES + CLUSTERS),
        4.0 * heads, before,
    )  # fmt: skip


def imagenet_rates(costs: Costs, measured: dict[int, dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Images (of relate: classes) per second of the whole stage, by stage and number of nodes."""
    rates: dict[str, dict[int, float]] = {}
    for nodes in COUNTS:
        cluster = replace(CLOUD, nodes=nodes)
        for name, work in works(costs, measured, nodes).items():
            rates.setdefault(name, {})[nodes] = work.rows / seconds(work, cluster)
        rates.setdefault("cluster", {})[nodes] = SEEN_IMAGES / training_seconds(training(costs), cluster)
    return rates


def bound_by(costs: Costs, measured: dict[int, dict[str, Any]]) -> dict[str, str]:
    """What holds each stage back on the most nodes: that without which it would be fastest, with how much."""
    nodes = COUNTS[-1]
    cluster = replace(CLOUD, nodes=nodes)
    found = {}
    for name, work in works(costs, measured, nodes).items():
        without = {
            "the driver": (replace(work, before_s=0, launch_s=0, merge_s=0), cluster),
            "too few tasks": (replace(work, tasks=min(work.rows, 16 * work.tasks)), cluster),
            "the store": (work, replace(cluster, store_bytes_s=1e15, store_requests_s=1e9, latency_s=1e-6)),
            "the network of the nodes": (work, replace(cluster, node_bytes_s=1e15)),
            "the start of its workers": (replace(work, slot_cpu_s=0, task_cpu_s=0), cluster),
        }
        found[name] = _largest({what: seconds(*changed) for what, changed in without.items()}, seconds(work, cluster))
    work = training(costs)
    steps = {
        "reading the features": replace(work, cached_bytes=0),
        "gathering rows for the neighbour bank": replace(work, exchanged_bytes=0),
        "averaging gradients": replace(work, gradient_bytes=0),
        "the start of its workers": replace(work, before_s=0),
    }
    times = {what: training_seconds(changed, cluster) for what, changed in steps.items()}
    found["cluster"] = _largest(times, training_seconds(work, cluster))
    return found


def scales_to(points: dict[int, float]) -> int:
    """The most nodes at which each still does at least half of what one alone does."""
    return max(nodes for nodes, rate in points.items() if rate >= 0.5 * nodes * points[1])


def _largest(times: dict[str, float], now: float) -> str:
    what = min(times, key=times.__getitem__)
    return f"{what} ({now / times[what]:.1f} x without)"

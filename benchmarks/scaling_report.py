"""The page and the picture of bench_scaling.py."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

from scaling_stages import COUNTS, CPUS, DRIVER_S, PLAN_S, Costs, scales_to

RESULTS = Path(__file__).resolve().parent / "results"
Checked = dict[str, dict[int, tuple[float, float]]]
Rates = dict[str, dict[int, float]]


def write_report(
    costs: Costs, measured: dict[int, dict[str, Any]], checked: Checked, rates: Rates, bounds: dict[str, str]
) -> None:
    """Writes scaling.png and scaling.md."""
    _picture(checked, rates)
    check = "\n".join(
        f"| {name} | {nodes} | {real:,.1f} | {model:,.1f} | {100 * (model / real - 1):+.0f} % |"
        for name, points in checked.items()
        for nodes, (real, model) in points.items()
    )
    shown = [count for count in COUNTS if count in (1, 4, 16, 64, 256)]
    simulated = "\n".join(
        f"| {name} | {' | '.join(f'{points[count]:,.0f}' for count in shown)} | {scales_to(points)} | {bounds[name]} |"
        for name, points in rates.items()
    )
    (RESULTS / "scaling.md").write_text(f"""# How the stages scale

{date.today()}, {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU. Command:

    uv run python benchmarks/bench_scaling.py --folder /tmp/scaling

![rates by stage and nodes](scaling.png)

## Measured on 1, 2 and 4 nodes, and what the model says of the same

Images of CIFAR-100 from S3 by `ray job submit ... jobs/crop.py` and `jobs/encode.py` (EfficientNet-Lite0, 96 px), rows
per second of the whole stage; 1,000 x 20,842 classes through relate's tasks. Each node is a Ray node of its own with
one logical CPU, isolated from the others (local_nodes.py): it unpacks the code it is sent, compiles the watershed and
downloads the weights for itself. All share {os.cpu_count()} cores, also with the driver and the S3 server: from 2 nodes
on there is nothing left to gain, more nodes only start more processes, and the model is told so.

| stage | nodes | measured, rows/s | model, rows/s | apart |
|---|---|---|---|---|
{check}

The largest difference is {_worst(checked):.0f} %. The model counts what the S3 server works for an image to the task
that reads it, so crop on one node is faster than it says: there the server has the other core. Why relate gains less
from the second core than the model has it was not looked into.

## Simulated for 1 to 256 nodes of {CPUS} CPUs

ImageNet-21K transfer (jobs/configs/imagenet.yaml): images per second of the whole stage, its start included (relate:
classes per second). *Scales to*: the most nodes at which each still does half of what one alone does. The last column
is what would make the stage fastest on 256 nodes if it were gone.

| stage | {" | ".join(f"{count}" for count in shown)} | scales to | bound by |
|{"---|" * (len(shown) + 3)}
{simulated}

## What went in

Measured in one process, processor seconds on one core (photographs: data/imagenet_samples, ResNet-50 at 224 px):

| what | |
|---|---|
{_costs(costs)}

Measured of Ray, for tasks that do nothing:

| kind | start, 1 node | a task, 1 node | a task, {max(measured)} nodes |
|---|---|---|---|
{_overheads(measured)}

The first pipeline of a job, imports and processes included: {measured[1]["first_s"]:.1f} s on one node. Cores that the
nodes' own processes take while nothing is asked of them: {_idle(measured)}.

The driver's part of a stage at 1.39 M images, in seconds (dry_run.md; the plan, {PLAN_S} s, is made
once for all stages of a run and is not in here):
{", ".join(f"{name} {value:.1f}" for name, value in DRIVER_S.items())}.

Assumed: 12.5 Gbit/s for a node; 100 GB/s, 5,500 requests a second (what S3 promises for one prefix) and 30 ms
for the store; two requests for 100 images that lie in Parquet; {CPUS} CPUs as fast as these
cores; 30 s for a group of training workers to start; all cores of a node fully used by training. GPUs were not
measured, so encode and cluster are those of CPU nodes.

## What it says, and what it does not

{_reading()}
""")


def _worst(checked: Checked) -> float:
    return 100 * max(abs(model / real - 1) for points in checked.values() for real, model in points.values())


def _costs(costs: Costs) -> str:
    large = costs.large
    lines = {
        "crop, a photograph": f"{1000 * large.crop_s:.1f} ms",
        "encode, a photograph (ten forward passes)": f"{large.encode_s:.2f} s",
        "a photograph as found, as stored, its features": (
            f"{large.source_bytes / 1e3:.0f} kB, {large.stored_bytes / 1e3:.0f} kB, {large.feature_bytes / 1e3:.0f} kB"
        ),
        "crop and encode, a CIFAR-100 image": (
            f"{1000 * costs.small.crop_s:.1f} ms, {1000 * costs.small.encode_s:.1f} ms"
        ),
        "reading an object: the task, the local server": (
            f"{1000 * costs.read_client_s:.1f} ms, {1000 * costs.read_server_s:.1f} ms"
        ),
        "training, a patch (K 500, bank 16,384)": f"{1e6 * costs.train_patch_s:.0f} us",
        "embed, an image": f"{1000 * costs.embed_image_s:.1f} ms",
        "relate, a class": f"{1000 * costs.class_s:.2f} ms",
        "ESZSL's statistics, an image; a merge": (
            f"{1000 * costs.statistics_s:.2f} ms; {1000 * costs.statistics_merge_s:.0f} ms"
        ),
        "a worker's start: crop; encode with its network": (
            f"{costs.process_start_s + costs.crop_start_s:.1f} s; {costs.process_start_s + costs.encode_start_s:.1f} s"
        ),
        "compiling the watershed, once a process, or a machine that keeps it": f"{costs.compile_s:.1f} s",
    }
    return "\n".join(f"| {what} | {value} |" for what, value in lines.items())


def _overheads(measured: dict[int, dict[str, Any]]) -> str:
    few, many = measured[1], measured[max(measured)]
    said = {"tasks": "Ray Data, tasks", "actors": "Ray Data, actors", "plain": "plain tasks"}
    return "\n".join(
        f"| {name} | {few[kind]['start_s']:.2f} s | {1000 * few[kind]['task_s']:.0f} ms "
        f"| {1000 * many[kind]['task_s']:.0f} ms |"
        for kind, name in said.items()
    )


def _idle(measured: dict[int, dict[str, Any]]) -> str:
    return ", ".join(f"{found['idle_load']:.2f} with {nodes}" for nodes, found in measured.items())


def _reading() -> str:
    return """- crop, encode and embed are cut into 388 shards of 3,600 rows; with more CPUs than shards the rest is
  idle (from 25 nodes on). `crop.rows_per_shard` is the setting to lower there.
- From single files crop is bound by requests, not by CPUs: a store that has not split the images' prefix yet serves
  one node's worth. Images in Parquet files (README) take that bound away.
- relate is seconds of work: its tasks are for slow settings and for memory, not for speed on hundreds of CPUs.
- Tasks of one stage are taken to be equally large; stragglers, lost spot nodes and an autoscaler that is still starting
  nodes are not in the model."""


def _picture(checked: Checked, rates: Rates) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), dpi=110, width_ratios=(1, 1.7))
    for number, (name, points) in enumerate(checked.items()):
        nodes = list(points)
        left.plot(nodes, [points[n][1] for n in nodes], "-", color=f"C{number}", label=name)
        left.plot(nodes, [points[n][0] for n in nodes], "o", color=f"C{number}")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="nodes (sharing 2 cores)",
        ylabel="rows per second",
        title="This machine (lines: model)",
    )
    left.set_xticks([1, 2, 4], ["1", "2", "4"])
    left.minorticks_off()
    left.set_ylim(top=8 * max(value for points in checked.values() for pair in points.values() for value in pair))
    left.legend(fontsize=7, loc="upper center", ncols=2)
    for number, (name, points) in enumerate(rates.items()):
        right.plot(COUNTS, [points[n] for n in COUNTS], "-", color=f"C{number}", label=name)
        right.plot(COUNTS, [n * points[1] for n in COUNTS], ":", color=f"C{number}", linewidth=0.8)
    right.set(xscale="log", yscale="log", xlabel=f"nodes of {CPUS} CPUs", ylabel="images (relate: classes) per second")
    right.set_title("ImageNet-21K transfer, simulated (dotted: linear)")
    right.set_xticks(COUNTS, [str(count) for count in COUNTS])
    right.minorticks_off()
    right.set_ylim(top=20 * max(value for points in rates.values() for value in points.values()))
    right.legend(fontsize=8, loc="upper left", ncols=2)
    figure.tight_layout()
    figure.savefig(RESULTS / "scaling.png")

"""The results page of bench_ingest.py."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

WHO = {
    "pool": "two processes, bare loop",
    "ours": "vgse",
    "dataloader": "torch DataLoader, our kernels",
    "naive": "torch DataLoader, Pillow, torchvision, scikit-image",
    "webdataset": "WebDataset",
    "ours_tar": "vgse",
    "litdata": "LitData",
    "streaming": "MosaicML Streaming",
}
READS = {"webdataset": "tars", "ours_tar": "tars", "litdata": "chunks", "streaming": "MDS shards"}


def report(
    arguments: Sequence[str],
    boxes: Mapping[str, float],
    races: Mapping[int, Mapping[str, Mapping[str, Any]]],
    far: Mapping[str, Mapping[str, float]],
    memory: Mapping[str, Any],
    line: Mapping[str, float],
) -> str:
    """The page as text."""
    command = " ".join(["uv run python benchmarks/bench_ingest.py", *arguments])
    return f"""# Ingest: photographs in, 9 patches at 64 px out

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`{command}`.

250 photographs of ImageNet (mean 110 kB, mostly 500 x 375) under as many ids as the size says. Two workers each,
processes of their own, one after another, round by round; medians of the rounds. Images per second are those between
a tenth and nine tenths of the images; "start" is from the process's start to its first batch, imports and Ray's start
included, "all" to its last; CPU is that of all its processes together, in the same stretch. All but the Pillow line run
the same kernels and gave the same patches (checksum of every image's pixels). Pixels reach the main process, except in
the bare loop, whose workers take the checksum themselves.

| images | who | reads | images/s | by round | vgse / who | CPU, ms/image | start, s | all, s |
|---|---|---|---|---|---|---|---|---|
{_race_rows(races)}

## Segmentation

250 photographs, one thread: {boxes["watershed_ms"]:.2f} ms per image (median, resizing included); mean IoU of the boxes
with those of scikit-image's watershed of the full-size image at compactness 0.01: {boxes["watershed_iou"]:.3f}.

## From S3, 20 ms further away

`rclone serve s3` behind a proxy that holds every request back by 20 ms; server, proxy and vgse share the cores.

| images | reads | this disk, images/s | S3 + 20 ms, images/s | ratio |
|---|---|---|---|---|
{_far_rows(far)}
{_memory(memory)}
```
{json.dumps(line, indent=1)}
```
"""


def _race_rows(races: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = []
    for found in races.values():
        for name, r in found.items():
            ours = found["ours_tar" if name in READS else "ours"]["rate"] / r["rate"]
            by_round = ", ".join(f"{rate:,.0f}" for rate in r["rates"])
            rows.append(
                f"| {int(r['images']):,} | {WHO[name]} | {READS.get(name, 'files')} | {r['rate']:,.1f} | {by_round} | "
                f"{'' if name.startswith('ours') else f'{ours:.3f}'} | {r['cpu_ms']:.2f} | "
                f"{r['start']:.1f} | {r['all']:.1f} |"
            )
    return "\n".join(rows)


def _far_rows(far: Mapping[str, Mapping[str, float]]) -> str:
    return "\n".join(
        f"| {r['images']:,} | {kind} | {r['near']:,.1f} | {r['far']:,.1f} | {r['far'] / r['near']:.3f} |"
        for kind, r in far.items()
    )


def _memory(memory: Mapping[str, Any]) -> str:
    if not memory:
        return ""
    rows = "\n".join(
        f"| {size:,} | {r['seconds']:.0f} | {r['driver'] / 1e6:,.0f} | {r['worker'] / 1e6:,.0f} | "
        f"{r['driver_rss'] / 1e6:,.0f} | {r['worker_rss'] / 1e6:,.0f} | {r['ray'] / 1e6:,.0f} |"
        for size, r in memory["sizes"].items()
    )
    return f"""
## Peak memory of `vgse crop`

CIFAR-100's images as Parquet under distinct ids. MB, sampled every 0.2 s over the process tree: anonymous resident
memory (heap; without mapped libraries and the object store's shared pages), and beside it all resident memory. "Worker"
is the largest of Ray's workers, "Ray" the largest of its own processes.

| images | s | driver | worker | driver, all | worker, all | Ray |
|---|---|---|---|---|---|---|
{rows}

Larger of the two ratios (driver, worker): {memory["ratio"]:.3f}.
"""

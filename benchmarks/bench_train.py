"""Training by `vgse cluster` on Ray against a bare PyTorch loop on the same data in memory.

    uv run python benchmarks/bench_train.py --run runs/train

One worker, CPU: frozen heads on EfficientNet-Lite0 features, and finetune of the tiny CNN and of ResNet-50, each at two
sizes, CIFAR-100. Ours writes checkpoints and metrics, checks every step, and in finetune has its pixels cut and varied
by Ray Data tasks; the bare loop finds them in memory. The bare loop runs before and after ours, each in a process of
its own; rows per second are those of the epochs after the first. Writes benchmarks/results/train.md and prints one JSON
object as its last line: ratios at the larger size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from line_ups import ROOT, base, plan_of, stages

RESULTS = ROOT / "benchmarks/results/train.md"
FIT = "split-0-final"
TINY = ("--encode.backbone", "tiny", "--encode.weights", "none", "--encode.input-size", "64")
RESNET = ("--encode.backbone", "resnet50", "--encode.weights", "none", "--encode.input-size", "32")
FINETUNE = ("--cluster.mode", "finetune", "--cluster.batch-size", "128", "--evaluate.features", "whole")


@dataclass(frozen=True)
class Case:
    """One kind of training, with its sizes as images per class."""

    overrides: tuple[str, ...]
    sizes: tuple[int, int]
    epochs: int = 3
    finetune: bool = True


CASES = {
    # An epoch takes a second or less.
    "frozen": Case((), (20, 60), epochs=12, finetune=False),
    "finetune_tiny": Case((*TINY, *FINETUNE), (10, 30)),
    "finetune_resnet50": Case((*RESNET, *FINETUNE), (2, 4)),
}


def measured(name: str, case: Case, folder: Path, source: Path, size: int) -> dict[str, float]:
    """Rows per second of ours and of the bare loop, and our share of time spent waiting."""
    run = folder / f"{name}-{size}"
    overrides = (
        *base(source, 1), *case.overrides, "--data.images-per-class", str(size), "--cluster.epochs", str(case.epochs),
        "--cluster.no-validation-fit", "--resources.workers", "1",
    )  # fmt: skip
    stages(run, overrides, "crop", "encode")
    # Ours leaves a CPU to cutting in finetune; the bare loop gets the threads that ours has.
    threads = max(1, (os.cpu_count() or 1) - case.finetune)
    before = _bare(run, overrides, threads, case.epochs)
    stages(run, overrides, "cluster")
    after = _bare(run, overrides, threads, case.epochs)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["fit"] == FIT and line["epoch"] > 1]
    seconds = sum(line["seconds"] for line in epochs)
    return {
        "rows_per_epoch": epochs[0]["rows"],
        "ours": sum(line["rows"] for line in epochs) / seconds,
        "bare": (before + after) / 2,
        "bare_spread": abs(before - after) / (before + after),
        "wait_share": sum(line["wait_share"] * line["seconds"] for line in epochs) / seconds,
    }


def _bare(run: Path, overrides: Sequence[str], threads: int, epochs: int) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_bare_here, run, tuple(overrides), threads, epochs).result()


def _bare_here(run: Path, overrides: Sequence[str], threads: int, epochs: int) -> float:
    from bare_loop import bare_rows_per_second

    from vgse.data.words import prepare_words
    from vgse.pipeline.accounts import committed_images
    from vgse.pipeline.features import patch_features, training_rows
    from vgse.pipeline.networks import NetworkRecipe

    plan = plan_of(run, overrides)
    frame, problem = committed_images(plan), next(p for p in plan.problems() if p.name == FIT)
    chosen = training_rows(frame, problem, plan)
    labels_I = frame.class_name[chosen].map({name: i for i, name in enumerate(problem.seen)}).to_numpy(np.int64)
    words_SW = prepare_words(plan.words(problem.seen), np.ones(len(problem.seen), bool), "centred")
    network = NetworkRecipe.of(plan.config, len(problem.seen), words_SW.shape[1]).build(plan.storage)
    cluster = plan.config.cluster
    if cluster.mode == "frozen":
        inputs = patch_features(plan, frame, chosen).read_all()
        labels = np.repeat(labels_I, plan.config.crop.patches)
    else:
        inputs, labels = _pixels(plan, frame, chosen, labels_I, network.backbone.spec.input_size)
    return bare_rows_per_second(inputs, labels, words_SW, network, cluster, threads, epochs)


def _pixels(
    plan: Any, frame: Any, chosen: np.ndarray, labels_I: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """All patches of an epoch, cut and kept."""
    from vgse.clustering.patch_order import PatchOrder, lane_count
    from vgse.pipeline.patch_windows import Cutter, patch_layout

    layout = patch_layout(frame, chosen, labels_I)
    lanes, config = lane_count(len(labels_I), 1), plan.config
    order = PatchOrder(layout.images, config.crop.patches, config.cluster.batch_size, lanes, config.seed)
    cut = list(Cutter(plan.storage, plan.run, order, size, 0.0).cut(layout, order.windows(0)))
    return np.concatenate([pixels for pixels, _ in cut]), np.concatenate([labels for _, labels in cut])


def report(found: dict[str, dict[int, dict[str, float]]], line: dict[str, float]) -> str:
    """The results page."""
    rows = "\n".join(
        f"| {name} | {size} | {int(r['rows_per_epoch']):,} | {r['ours']:,.1f} | {r['bare']:,.1f} | "
        f"{r['ours'] / r['bare']:.3f} | {100 * r['bare_spread']:.1f} % | {100 * r['wait_share']:.1f} % |"
        for name, sizes in found.items()
        for size, r in sizes.items()
    )
    return f"""# Training against a bare PyTorch loop

`vgse cluster` with one worker on Ray (checkpoints, metrics, checks; in finetune pixels cut and augmented by Ray Data
tasks beside it) against a plain loop on the same data in memory, with as many threads, run before and after ours. Rows
are patches; epochs after the first (of 12 frozen, of 3 in finetune); CIFAR-100; finetune in batches of 128 at 64 px
(tiny) and 32 px (ResNet-50), bfloat16 where the CPU has it.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_train.py`.

| training | images a class | rows an epoch | ours, rows/s | bare, rows/s | ratio | bare apart | waiting for data |
|---|---|---|---|---|---|---|---|
{rows}

```
{json.dumps(line, indent=1)}
```
"""


def main() -> None:
    """Measures, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/train")
    options = parser.parse_args()
    folder, source = options.run.resolve(), options.source.resolve()
    found = {
        name: {size: measured(name, case, folder, source, size) for size in case.sizes} for name, case in CASES.items()
    }
    larger = {name: sizes[max(sizes)] for name, sizes in found.items()}
    line = {f"{name}_ratio": round(r["ours"] / r["bare"], 4) for name, r in larger.items()}
    line["wait_share"] = round(max(r["wait_share"] for r in larger.values()), 4)
    RESULTS.write_text(report(found, line))
    print(json.dumps(line))


if __name__ == "__main__":
    main()

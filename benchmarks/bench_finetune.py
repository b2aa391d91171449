"""Does fine-tuning the backbone by the clustering objective make the visual part of the embeddings count?

    uv run python benchmarks/bench_finetune.py --run runs/finetune      # continues what is there

CIFAR-100 in small, three class splits, names and texts. Heads are trained on a frozen EfficientNet-Lite0; from them and
the same weights the backbone is trained further by the same objective. Both are judged the same way, each on its own
image features, beside arms without visual content under the same r; and the fine-tuned embeddings once more on the
frozen features, which tells whether embeddings or features have changed for the better. Writes
benchmarks/results/finetune.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from bench_quality import filled, values
from line_ups import MODELS, ROOT, TEXTS, LineUp, base, judge, stages

RESULTS = ROOT / "benchmarks/results/finetune.md"
SPLITS = 3
# Patches of test images would have to be encoded by every network.
WHOLE = ("--evaluate.features", "whole")
KEYS = [(model, figure) for model in MODELS for figure in ("T1", "H")]
# Under the same r, without visual content.
BLIND = ("one_hot", "random")
ARMS = ("vgse", *BLIND, "permuted", "texts", "words_centred", "oracle")
FROZEN, FINE, MIXED = "frozen", "fine-tuned", "fine-tuned embeddings, frozen features"
SETTINGS = (FROZEN, FINE, MIXED)


def trained(options: argparse.Namespace) -> tuple[Path, Path, tuple[str, ...], tuple[str, ...]]:
    """The run directories of frozen and of fine-tuned networks, trained and embedded, and their overrides."""
    folder, source = options.run.resolve(), options.source.resolve()
    frozen, fine = folder / "frozen", folder / "finetune"
    always = (
        *base(source, SPLITS), *filled({"": LineUp(TEXTS, "")}, source=source)[""].overrides,
        "--data.images-per-class", str(options.images), "--encode.input-size", str(options.size),
        "--cluster.num-clusters", str(options.clusters), "--cluster.validate-every", "0",
        "--cluster.no-validation-fit",
        "--evaluate.random-draws", "5",
    )  # fmt: skip
    on_frozen = (*always, "--cluster.epochs", "15")
    # In float32: on CPUs the backward pass of depthwise convolutions is slower in bfloat16.
    on_fine = (
        *always, "--cluster.mode", "finetune", "--cluster.heads-from", str(frozen), "--cluster.batch-size", "128",
        "--cluster.epochs", str(options.epochs), "--cluster.learning-rate", "1e-3",
        "--cluster.backbone-learning-rate", str(options.rate), "--cluster.mixed-precision", "false",
        "--resources.workers", str(os.cpu_count()), "--cluster.warmup-epochs", "0.2", *WHOLE,
    )  # fmt: skip
    stages(frozen, on_frozen, "crop", "encode", "cluster", "embed")
    stages(fine, on_fine, "crop", "encode", "cluster", "embed")
    return frozen, fine, on_frozen, on_fine


def judged(frozen: Path, fine: Path, on_frozen: tuple[str, ...], on_fine: tuple[str, ...]) -> dict[str, Any]:
    """evaluation.json of the three settings."""
    beside = Path("..") / fine.name / "embeddings"
    on_cached = {FROZEN: LineUp(WHOLE, "embeddings"), MIXED: LineUp(WHOLE, str(beside))}
    found = judge(frozen, on_frozen, on_cached, SPLITS) | judge(fine, on_fine, {FINE: LineUp((), "embeddings")}, SPLITS)
    return {setting: found[setting] for setting in SETTINGS}


def used_clusters(run: Path) -> list[int]:
    """Clusters in use in the last epoch of every class split's final fit."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {line["fit"]: int(line["used_clusters"]) for line in lines if line["fit"].endswith("final")}
    return [last[name] for name in sorted(last)]


def losses(run: Path) -> tuple[float, float]:
    """Objective in the first and in the last epoch, mean over the final fits."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    final = [line for line in lines if line["fit"].endswith("final")]
    ends = (1, max(line["epoch"] for line in final))
    first, last = (np.mean([line["loss"] for line in final if line["epoch"] == epoch]) for epoch in ends)
    return float(first), float(last)


def percent(evaluation: dict[str, Any], arm: str, key: tuple[str, str]) -> np.ndarray:
    """The figure of every class split, in percent."""
    return 100 * values(evaluation, arm, *key)


def margin(evaluation: dict[str, Any], key: tuple[str, str]) -> np.ndarray:
    """VGSE over the better of the arms without visual content, in points by class split."""
    blind = max((percent(evaluation, arm, key) for arm in BLIND), key=np.mean)
    return percent(evaluation, "vgse", key) - blind


def told(difference: np.ndarray) -> str:
    """A paired difference with its standard deviation over class splits, and its sign in every one of them."""
    signs = "".join("0+-"[int(np.sign(round(float(each), 2)))] for each in difference)
    return f"{difference.mean():+.1f} ± {difference.std(ddof=1):.1f} ({signs})"


def shown(difference: np.ndarray) -> bool:
    """Whether it is positive on every class split and larger than twice its standard error."""
    return bool((difference > 0).all() and difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5)


def similarity(evaluation: dict[str, Any], arm: str) -> np.ndarray:
    """Correlation of class similarity with image-prototype similarity, by class split; NaN where there is none."""
    found = evaluation["similarity"][arm]
    return np.array(found["values"] if isinstance(found, dict) else [found], float)


def questions(results: dict[str, Any]) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """The differences that answer the question, by model and figure."""
    before, after, mixed = (results[setting] for setting in SETTINGS)
    of = {key: {name: margin(result, key) for name, result in results.items()} for key in KEYS}
    return {
        "VGSE, fine-tuned - frozen": {k: percent(after, "vgse", k) - percent(before, "vgse", k) for k in KEYS},
        "the same for one_hot (features alone)": {
            k: percent(after, "one_hot", k) - percent(before, "one_hot", k) for k in KEYS
        },
        "VGSE, fine-tuned embeddings on frozen features - frozen": {
            k: percent(mixed, "vgse", k) - percent(before, "vgse", k) for k in KEYS
        },
        "VGSE over the better of one_hot and random, frozen": {k: of[k][FROZEN] for k in KEYS},
        "VGSE over the better of one_hot and random, fine-tuned": {k: of[k][FINE] for k in KEYS},
        "growth of that margin": {k: of[k][FINE] - of[k][FROZEN] for k in KEYS},
    }


def table(results: dict[str, Any]) -> str:
    """Means over class splits in percent."""
    rows = [
        f"| {setting} | {arm} | "
        + " | ".join(f"{percent(result, arm, k).mean():.1f} ± {percent(result, arm, k).std(ddof=1):.1f}" for k in KEYS)
        + f" | {similarity(result, arm).mean():.2f} |"
        for setting, result in results.items()
        for arm in ARMS
    ]
    head = "| setting | arm | " + " | ".join(f"{m} {f}" for m, f in KEYS) + " | similarity correlation |\n"
    return head + "|---" * (len(KEYS) + 3) + "|\n" + "\n".join(rows) + "\n"


def report(options: argparse.Namespace, results: dict[str, Any], line: dict[str, Any]) -> str:
    """The results page."""
    asked = questions(results)
    differences = "\n".join(
        f"| {name} | {' | '.join(told(by_key[key]) for key in KEYS)} |" for name, by_key in asked.items()
    )
    verdict = [f"{model} {figure}" for model, figure in KEYS if shown(asked["growth of that margin"][(model, figure)])]
    answer = f"Shown in {', '.join(verdict)}." if verdict else "Not shown: no figure's margin grew beyond its spread."
    return f"""# Does fine-tuning make the visual part count?

{answer}

"Visual part" is VGSE over the better of the arms without visual content (`one_hot`, `random` of five draws) under the
same r, and "shown" means that this margin grew on every class split and by more than twice its standard error.

CIFAR-100 in small: {options.images} training images of each class and as many test images, {SPLITS} class splits of 80 seen and 20
unseen classes, names and texts, {options.clusters} clusters. EfficientNet-Lite0 at {options.size} px; frozen: heads of 15 epochs on cached
features; fine-tuned: from these heads {options.epochs} epochs of all layers in batches of 128 with augmentation, learning rate
{options.rate:g} for the backbone and 1e-3 for the heads, one network a class split, which also serves for the choices: it
has met the val classes, so that constants of GZSL (and H) may suit the fine-tuned features less well than the frozen
ones; arms of the same setting share that. Each setting is judged on its own features of whole images.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_finetune.py --images {options.images} --size {options.size} --epochs {options.epochs} --rate {options.rate:g} --clusters {options.clusters}`.

Differences paired by class split, in points, with their standard deviation and their signs on the splits:

| difference | {" | ".join(f"{m} {f}" for m, f in KEYS)} |
{"|---" * (len(KEYS) + 1)}|
{differences}

Figures in percent, mean ± standard deviation over class splits; the last column is the correlation of class similarity
with image-prototype similarity:

{table(results)}
Clusters in use, by class split: {line["used_clusters"][FROZEN]} frozen, {line["used_clusters"][FINE]} fine-tuned. The objective went from
{line["loss"][0]:.3f} in the first epoch of fine-tuning to {line["loss"][1]:.3f} in the last.
"""  # noqa: E501


def main() -> None:
    """Trains, judges, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/finetune")
    parser.add_argument("--images", type=int, default=20, help="per class")
    parser.add_argument("--size", type=int, default=64, help="side of a patch in pixels")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of the backbone")
    parser.add_argument("--clusters", type=int, default=150)
    options = parser.parse_args()
    frozen, fine, on_frozen, on_fine = trained(options)
    results = judged(frozen, fine, on_frozen, on_fine)
    line = {
        "differences": {
            name: {f"{m}_{f}": [round(float(each), 2) for each in by_key[(m, f)]] for m, f in KEYS}
            for name, by_key in questions(results).items()
        },
        "similarity": {name: round(float(similarity(each, "vgse").mean()), 3) for name, each in results.items()},
        "used_clusters": {FROZEN: used_clusters(frozen), FINE: used_clusters(fine)},
        "loss": losses(fine),
    }
    RESULTS.write_text(report(options, results, line))
    print(json.dumps(line))


if __name__ == "__main__":
    main()

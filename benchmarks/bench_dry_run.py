"""A dry run at ImageNet's size: 1.3 M images, 1,000 seen and 20,842 unseen classes on this machine.

    uv run python benchmarks/bench_dry_run.py --folder /tmp/dry-run [--quick]

Makes a data set of that many names and a run directory with made features (see made_imagenet.py), then runs the real
commands on it: `vgse check` (listing, splits, words, fingerprints), `vgse status` (accounting), the driver's part of
crop, encode, cluster and embed, `vgse relate` and `vgse evaluate`. Takes seconds and memory of each with all processes
that it starts, writes the size's section of benchmarks/results/dry_run.md and prints one JSON object as its last line.
The folder (6 GB) is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from made_imagenet import FULL, QUICK, Size, prepare_run, write_inputs
from process_memory import Measured, measure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/dry_run.md"
_SAID = {
    "check": "`vgse check`: listing anew, splits, words, fingerprints, backbone",
    "status": "`vgse status`: every image accounted for",
    "driver": "the driver's part of crop, encode, cluster, embed, evaluate",
    "relate": "`vgse relate`",
    "evaluate": "`vgse evaluate`, ESZSL, all arms",
}
VGSE = (sys.executable, "-m", "vgse.cli")


def commands(config: Path) -> dict[str, tuple[str, ...]]:
    """What is run, by the name of the row in the table."""
    run = str(config.parent / "run")
    return {
        "check": (*VGSE, "check", str(config)),
        "status": (*VGSE, "status", run),
        "driver": (sys.executable, str(ROOT / "benchmarks/driver_work.py"), str(config)),
        "relate": (*VGSE, "relate", str(config)),
        "evaluate": (*VGSE, "evaluate", str(config)),
    }


def dry_run(folder: Path, size: Size, vocabulary: Path, timeout_s: float) -> dict[str, Any]:
    """All parts at one size: figures of every command, and what they said."""
    started = time.monotonic()
    config = write_inputs(folder, size, vocabulary)
    listed = time.monotonic()
    made = prepare_run(config)
    print(f"inputs written in {listed - started:.0f} s, run directory in {time.monotonic() - listed:.0f} s", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT)}
    making = time.monotonic() - started
    parts: dict[str, Measured] = {}
    for name, command in commands(config).items():
        parts[name] = measure(command, environment, ROOT, timeout_s)
        print(
            f"--- {name}: {parts[name].seconds:.1f} s, {parts[name].peak_gib:.2f} GiB\n{parts[name].output}", flush=True
        )
    receipts = {name: json.loads((folder / f"run/receipts/{name}.json").read_text()) for name in ("relate", "evaluate")}
    evaluation = json.loads((folder / "run/evaluation.json").read_text())
    sizes = {
        name: (folder / "run" / name).stat().st_size
        for name in ("manifest.parquet", "relations.parquet", "class_embeddings.npz", "evaluation.json")
    }
    return {
        "size": asdict(size),
        "making_seconds": round(making, 1),
        **made,
        "seconds": {name: round(part.seconds, 1) for name, part in parts.items()},
        "cpu_seconds": {name: round(part.cpu_seconds, 1) for name, part in parts.items()},
        "peak_gib": {name: round(part.peak_gib, 2) for name, part in parts.items()},
        "peak_held_gib": {name: round(part.peak_held_gib, 2) for name, part in parts.items()},
        "stage_seconds": {name: receipt["seconds"] for name, receipt in receipts.items()},
        "details": {name: receipt["details"] for name, receipt in receipts.items()},
        "driver_seconds": json.loads(parts["driver"].output.strip().splitlines()[-1]),
        "file_bytes": sizes,
        "arms": {arm: models["eszsl"] for arm, models in evaluation["arms"].items()},
    }


def write_section(result: dict[str, Any]) -> None:
    """Writes the section of this size; those of other sizes stay."""
    size = result["size"]
    heading = f"## {size['images']:,} images, {size['seen']:,} seen and {size['unseen']:,} unseen classes"
    before = RESULTS.read_text() if RESULTS.exists() else "# Dry run at ImageNet's size\n"
    first, *sections = before.split("\n## ")
    kept = [f"## {section.strip()}\n" for section in sections if not f"## {section}".startswith(heading)]
    RESULTS.write_text("\n".join([first.rstrip() + "\n", *kept, _section(heading, result)]))


def _section(heading: str, result: dict[str, Any]) -> str:
    size, seconds = result["size"], result["seconds"]
    parts = "\n".join(
        f"| {_SAID[name]} | {took:,.0f} | {result['cpu_seconds'][name]:,.0f} | {result['peak_gib'][name]:.1f} "
        f"| {result['peak_held_gib'][name]:.1f} |"
        for name, took in seconds.items()
    )
    arms = "\n".join(
        f"| {arm} | {' | '.join(f'{100 * figures[name]:.2f}' for name in ('T1', 'u', 's', 'H'))} |"
        for arm, figures in result["arms"].items()
    )
    driver = ", ".join(f"{name} {took:.1f}" for name, took in result["driver_seconds"].items())
    files = ", ".join(f"{name} {held / 1e6:.1f}" for name, held in result["file_bytes"].items())
    paths = ", ".join(f"{count:,} by {path}" for path, count in result["details"]["relate"]["paths"].items())
    used = sum(result["cpu_seconds"].values())
    gap, stages = result["details"]["relate"]["largest_gap"], result["stage_seconds"]
    peak, held = (max(result[kind].values()) for kind in ("peak_gib", "peak_held_gib"))
    return f"""{heading}

{result["date"]}, {result["cores"]} cores ({result["machine"]}).
`uv run python benchmarks/bench_dry_run.py --folder FOLDER{" --quick" if size == asdict(QUICK) else ""}`

{result["images"]:,} images with {size["test_per_class"]} test images of each seen and {size["per_unseen"]} of each
unseen class, {result["shards"]} shards, {result["feature_bytes"] / 1e9:.2f} GB of features (2,048 wide, float16),
made in {result["making_seconds"]:.0f} s.

| part | seconds | of processors | peak GiB | of which not files |
|---|---|---|---|---|
{parts}
| **all** | **{sum(seconds.values()):,.0f}** | **{used:,.0f}** | **{peak:.1f}** | **{held:.1f}** |

Of the driver's part, processor seconds: {driver}.
Of the stages by their receipts: relate {stages["relate"]:.0f} ({paths}; largest proven gap {gap:.0e}), evaluate
{stages["evaluate"]:.0f}. Megabytes: {files}.

| arm | T1 | u | s | H |
|---|---|---|---|---|
{arms}

Percent among {size["unseen"]:,} (T1) and {size["seen"] + size["unseen"]:,} candidates; chance is
{100 / size["unseen"]:.4f} in T1. Made features: the figures show that the sums are right, not what the method is worth.
"""


def main() -> None:
    """Runs one size and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--quick", action="store_true", help="64,000 images, 200 seen and 4,200 unseen classes")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one command")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    options = parser.parse_args()
    vocabulary = options.source / "data/word_vectors/glove_100d_22k.bin"
    size = QUICK if options.quick else FULL
    try:
        result = dry_run(options.folder, size, vocabulary, options.timeout)
    finally:
        if not options.keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    result |= {"date": str(date.today()), "cores": os.cpu_count(), "machine": platform.machine()}
    write_section(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

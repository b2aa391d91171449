"""CIFAR-100 from a bucket to evaluated class embeddings: stage times, the table, and VGSE against words and chance.

    uv run python benchmarks/bench_cifar100.py --run runs/cifar100        # continues what is there

Runs jobs/configs/cifar100.yaml against a local S3 server (150 clusters, then 50 on the same features), writes
benchmarks/results/cifar100.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from s3_server import serve_s3
from serve_cifar100 import stage

from vgse.receipts import STAGES
from vgse.zsl.controls import WORD_ARMS
from vgse.zsl.table import results_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/cifar100.md"


def run(config: Path, run_folder: Path, port: int, environment: dict[str, str], *overrides: str) -> dict[str, Any]:
    """One `vgse run`; its evaluation and the receipts of its stages, kept beside the run, which the next one alters."""
    kept = run_folder / f"bench_{'_'.join(overrides).strip('-') or 'first'}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    command = [sys.executable, "-m", "vgse.cli", "run", str(config), "--run", str(run_folder)]
    command += ["--storage.endpoint-url", f"http://127.0.0.1:{port}", *overrides]
    subprocess.run(command, check=True, env={**os.environ, **environment}, cwd=ROOT)
    receipts = {name: json.loads((run_folder / f"receipts/{name}.json").read_text()) for name in STAGES}
    result = {"evaluation": json.loads((run_folder / "evaluation.json").read_text()), "receipts": receipts}
    kept.write_text(json.dumps(result))
    return result


def against(evaluation: dict[str, Any], others: tuple[str, ...], figure: str, model: str = "eszsl") -> float:
    """VGSE's mean over class splits divided by that of the best of `others`."""
    arms = evaluation["arms"]
    return arms["vgse"][model][figure]["mean"] / max(arms[name][model][figure]["mean"] for name in others)


def report(results: dict[str, dict[str, Any]], figures: dict[str, float]) -> str:
    """The results page."""
    main = results["K150"]
    times = "\n".join(
        f"| {name} | {r['rows_in']:,} | {r['rows_out']:,} | {r['quarantined']} | {r['seconds']:.0f} |"
        for name, r in main["receipts"].items()
    )
    tables = "\n\n".join(
        f"{name[1:]} clusters\n\n```\n{results_text(result['evaluation']['arms'])}```"
        for name, result in results.items()
    )
    return f"""# CIFAR-100 from a bucket

24,000 training and 6,000 test images; 3 class splits of 64 train, 16 val and 20 unseen classes.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_cifar100.py`: single PNG objects from a local S3 server (`rclone serve s3`, sharing the
cores), EfficientNet-Lite0 frozen at 96 px, 100-d GloVe, names only.

| stage | rows in | rows out | quarantined | seconds |
|---|---|---|---|---|
{times}
| **all** | | | | **{sum(r["seconds"] for r in main["receipts"].values()):.0f}** |

{tables}

VGSE in ESZSL, means over the class splits: {", ".join(f"{name} {value:.3f}" for name, value in figures.items())}.
"""


def main() -> None:
    """Runs, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--folder", type=Path, default=ROOT / ".data")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/cifar100")
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    stage(options.source, options.folder)
    config, results = ROOT / "jobs/configs/cifar100.yaml", {}
    with serve_s3(options.folder, options.port) as server:
        for clusters in (150, 50):
            fewer = ("--cluster.num-clusters", str(clusters), "--evaluate.models", "eszsl")
            overrides = () if clusters == 150 else fewer
            results[f"K{clusters}"] = run(config, options.run, options.port, server.environment, *overrides)
    figures = {
        "T1_over_words": against(results["K150"]["evaluation"], WORD_ARMS, "T1"),
        "H_over_words": against(results["K150"]["evaluation"], WORD_ARMS, "H"),
        "T1_over_random_K50": against(results["K50"]["evaluation"], ("random",), "T1"),
        "T1_over_words_K50": against(results["K50"]["evaluation"], WORD_ARMS, "T1"),
        "H_over_words_K50": against(results["K50"]["evaluation"], WORD_ARMS, "H"),
    }
    RESULTS.write_text(report(results, figures))
    seconds = {name: r["seconds"] for name, r in results["K150"]["receipts"].items()}
    print(json.dumps({**figures, "seconds": seconds, "total_seconds": sum(seconds.values())}))


if __name__ == "__main__":
    main()

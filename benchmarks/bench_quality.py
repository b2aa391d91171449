"""What the embeddings are worth on CIFAR-100: six class splits; names alone, names and texts, 50 clusters.

    uv run python benchmarks/bench_quality.py --run runs/quality        # continues what is there

Real images, EfficientNet-Lite0 frozen, 100-d GloVe, WordNet texts. One run directory serves all line-ups; features are
encoded once. Writes benchmarks/results/quality.md and prints one JSON object as its last line: means of ratios paired
by class split.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from vgse.receipts import STAGES
from vgse.zsl.controls import WORD_ARMS
from vgse.zsl.table import comparison_lines, results_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/quality.md"
MODELS = ("eszsl", "prototype")
# The line-ups, in an order in which each shares as much as possible with the one before.
TEXTS = ("--knowledge.texts", "{source}/data/cifar100/class_texts.jsonl")
NAMES, MEAN = ("--knowledge.texts", "None"), ("--relate.method", "mean")
LINE_UPS = {
    "names": NAMES,
    "names, mean r": (*NAMES, *MEAN),
    "texts": TEXTS,
    "texts, mean r": (*TEXTS, *MEAN),
    "whole": (*TEXTS, "--evaluate.features", "whole", "--evaluate.models", "prototype"),
    "K50": (*TEXTS, "--cluster.num-clusters", "50", "--evaluate.random-draws", "5", "--evaluate.models", "eszsl"),
}
AT_192 = {"192 px": (*TEXTS, "--evaluate.input-size", "192")}


def base(source: Path, splits: int) -> tuple[str, ...]:
    """Overrides of jobs/configs/cifar100.yaml that take its data from files instead of a bucket."""
    cifar = source / "data/cifar100"
    return (
        "--data.images", *(str(path) for path in sorted(cifar.glob("train-*.parquet"))),
        "--data.test-images", *(str(path) for path in sorted(cifar.glob("test-*.parquet"))),
        "--data.classes", str(cifar / "split.yaml"), "--data.class-splits", str(splits),
        "--data.word-vectors", str(source / "data/word_vectors/glove_100d_22k.bin"),
        "--encode.weights", str(source / "weights/tf_efficientnet_lite0.safetensors"),
        "--evaluate.models", *MODELS,
    )  # fmt: skip


def run(name: str, folder: Path, source: Path, overrides: Sequence[str], stages: str = "run") -> dict[str, Any]:
    """One `vgse run` in the shared run directory; its evaluation and time are kept, as the next one replaces them."""
    kept = folder / f"bench_{''.join(c if c.isalnum() else '_' for c in name)}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    overrides = [text.format(source=source) for text in overrides]
    started = time.monotonic()
    command = [sys.executable, "-m", "vgse.cli", stages, str(ROOT / "jobs/configs/cifar100.yaml"), "--run", str(folder)]
    subprocess.run([*command, *overrides], check=True, cwd=ROOT)
    if stages != "run":
        return {}
    result = json.loads((folder / "evaluation.json").read_text()) | {"seconds": time.monotonic() - started}
    result["stages"] = {name: json.loads((folder / f"receipts/{name}.json").read_text())["seconds"] for name in STAGES}
    kept.write_text(json.dumps(result))
    return result


def values(evaluation: dict[str, Any], arm: str, model: str, figure: str) -> np.ndarray:
    """The figure of every class split."""
    found = evaluation["arms"][arm][model][figure]
    return np.array(found["values"] if isinstance(found, dict) else [found])


def best(evaluation: dict[str, Any], arms: Sequence[str], model: str, figure: str) -> np.ndarray:
    """The values of the arm with the highest mean."""
    return max((values(evaluation, arm, model, figure) for arm in arms), key=np.mean)


def figures(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The JSON line."""
    names, texts = results["names"], results["texts"]
    out: dict[str, Any] = {model: ratios(names, texts, model) for model in MODELS}
    out["mean_relation"] = {
        model: ratios(results["names, mean r"], results["texts, mean r"], model) for model in MODELS
    }
    T1, oracle = (values(texts, arm, "eszsl", "T1") for arm in ("vgse", "oracle"))
    of_names = best(names, WORD_ARMS, "eszsl", "T1")
    whole, both = (values(results[name], "vgse", "prototype", "H") for name in ("whole", "texts"))
    similarity = {arm: mean(names["similarity"][arm]) for arm in ("vgse", *WORD_ARMS)}
    return out | {
        "K50_T1_over_random": ratio(*(values(results["K50"], arm, "eszsl", "T1") for arm in ("vgse", "random"))),
        "similarity_correlation": similarity["vgse"],
        "similarity_correlation_words": max(similarity[arm] for arm in WORD_ARMS),
        "oracle_gap_closed": float(np.mean((T1 - of_names) / (oracle - of_names))),
        "patch_gain_H": float(100 * np.mean(both - whole)),
        "seconds": {name: round(result["seconds"], 1) for name, result in results.items()},
    }


def ratios(names: dict[str, Any], texts: dict[str, Any], model: str) -> dict[str, float]:
    """VGSE against the best word arm: with texts against names and against the same texts, and with names only."""
    out = {}
    for figure in ("T1", "H"):
        ours, of_names = values(texts, "vgse", model, figure), best(names, WORD_ARMS, model, figure)
        out |= {
            f"{figure}_over_names": ratio(ours, of_names),
            f"{figure}_over_same_text": ratio(ours, best(texts, (*WORD_ARMS, "texts"), model, figure)),
            f"{figure}_names_only": ratio(values(names, "vgse", model, figure), of_names),
        }
    return out


def ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean of paired ratios."""
    return float(np.mean(ours / theirs))


def mean(figure: Any) -> float:
    """A figure of one or of several class splits."""
    return float(figure["mean"] if isinstance(figure, dict) else figure)


def report(results: dict[str, dict[str, Any]], line: dict[str, Any], splits: int) -> str:
    """The results page."""
    said = {
        "names": "Names only: word vectors of the class names",
        "names, mean r": "Names only, the mean of r over solvers",
        "texts": "Names and texts: names, WordNet synonyms, gloss and hypernym names",
        "texts, mean r": "Names and texts, the mean of r over solvers and sources",
        "whole": "Names and texts, features of the whole image alone",
        "K50": "Names and texts, 50 clusters; random is the mean of 5 draws",
        "192 px": "Names and texts, images judged at 192 px",
    }
    parts = [
        f"## {said[name]}\n\n```\n{results_text(result['arms'])}\n" + "\n".join(comparison_lines(result["comparisons"]))
        + f"\n```\n\n{result['seconds']:.0f} s."
        for name, result in results.items()
    ]  # fmt: skip
    return f"""# What the embeddings are worth: CIFAR-100

Real images (24,000 train, 6,000 test), {splits} class splits of 80 seen and 20 unseen classes, EfficientNet-Lite0
frozen at 96 px, 150 clusters, 100-d GloVe; figures in percent, mean ± standard deviation over class splits, every
choice made on the validation classes of each split. Differences are paired by split, with 95 % bootstrap intervals over
splits and classes.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_quality.py`.

```
{json.dumps(line, indent=1)}
```

{chr(10).join(part + chr(10) for part in parts)}"""


def main() -> None:
    """Runs, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quality")
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--at-192", action="store_true", help="also judge at 192 px (encodes all images again)")
    options = parser.parse_args()
    always = base(options.source.resolve(), options.splits)
    run("features", options.run, options.source.resolve(), always, "crop")
    run("features", options.run, options.source.resolve(), always, "encode")
    line_ups = {**LINE_UPS, **(AT_192 if options.at_192 else {})}
    results = {
        name: run(name, options.run, options.source.resolve(), (*always, *overrides))
        for name, overrides in line_ups.items()
    }
    line = figures(results)
    RESULTS.write_text(report(results, line, options.splits))
    print(json.dumps(line))


if __name__ == "__main__":
    main()

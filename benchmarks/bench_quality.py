"""What the embeddings are worth on CIFAR-100: six class splits; names alone, names and texts, 50 clusters.

    uv run python benchmarks/bench_quality.py --run runs/quality        # continues what is there

Real images, EfficientNet-Lite0 frozen, 100-d GloVe, WordNet texts. One run directory serves all line-ups; features are
encoded once. Writes benchmarks/results/quality.md and prints one JSON object as its last line: means of ratios paired
by class split.

    --vectors FILE    also with a text encoder's vectors (see benchmarks/encode_texts.py)
    --at-192          also judge whole images encoded at 192 px
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from line_ups import MODELS, ROOT, TEXTS, LineUp, base, judge, networks, stages

from vgse.zsl.controls import WORD_ARMS
from vgse.zsl.table import comparison_lines, results_text

RESULTS = ROOT / "benchmarks/results/quality.md"
TAXONOMY, MEAN = (*TEXTS, "--knowledge.taxonomy", "texts"), ("--relate.method", "mean")
WHOLE = ("--evaluate.features", "whole")
FEWER = ("--cluster.num-clusters", "50")
LINE_UPS = {
    "names": LineUp((), "kept-K150"),
    "names, mean r": LineUp(MEAN, "kept-K150"),
    "texts": LineUp(TEXTS, "kept-K150"),
    "texts, mean r": LineUp((*TEXTS, *MEAN), "kept-K150"),
    "taxonomy, mean r": LineUp((*TAXONOMY, *MEAN), "kept-K150"),
    "whole": LineUp((*TEXTS, *WHOLE), "kept-K150"),
    "K50": LineUp((*TEXTS, *FEWER, "--evaluate.random-draws", "5", "--evaluate.models", "eszsl"), "kept-K50"),
}
ENCODER = {
    "encoder, mean r": LineUp((*TEXTS, "--knowledge.vectors", "{vectors}", *MEAN), "kept-K150"),
}
AT_192 = LineUp((*TEXTS, *WHOLE, *MEAN, "--evaluate.input-size", "192"), "kept-K150")


def filled(line_ups: dict[str, LineUp], **places: Any) -> dict[str, LineUp]:
    """The line-ups with the places of their files."""
    return {
        name: LineUp(tuple(text.format(**places) for text in each.overrides), each.embeddings, each.arms)
        for name, each in line_ups.items()
    }


def at_192(folder: Path, always: Sequence[str], splits: int, line_up: LineUp) -> dict[str, Any]:
    """The line-up on whole images at 192 px, in a run directory of its own that shares the files of the first."""
    other = folder.with_name(folder.name + "-192")
    if not other.exists():
        shutil.copytree(folder, other, copy_function=os.link)
    stages(other, (*always, *line_up.overrides), "encode")
    return judge(other, always, {"192 px": line_up}, splits)


def values(evaluation: dict[str, Any], arm: str, model: str, figure: str) -> np.ndarray:
    """The figure of every class split."""
    found = evaluation["arms"][arm][model][figure]
    return np.array(found["values"] if isinstance(found, dict) else [found])


def best(evaluation: dict[str, Any], arms: Sequence[str], model: str, figure: str) -> np.ndarray:
    """The values of the arm with the highest mean."""
    return max((values(evaluation, arm, model, figure) for arm in arms), key=np.mean)


def figures(results: dict[str, dict[str, Any]], seconds: dict[str, float]) -> dict[str, Any]:
    """The JSON line."""
    names, texts = results["names"], results["texts"]
    out: dict[str, Any] = {model: ratios(names, texts, model) for model in MODELS}
    out["mean_relation"] = {
        model: ratios(results["names, mean r"], results["texts, mean r"], model) for model in MODELS
    }
    oracle, of_names = values(texts, "oracle", "eszsl", "T1"), best(names, WORD_ARMS, "eszsl", "T1")
    closed = {
        name: float(np.mean((values(result, "vgse", "eszsl", "T1") - of_names) / (oracle - of_names)))
        for name, result in results.items()
        if name in ("texts", "texts, mean r", "taxonomy, mean r", "encoder, mean r")
    }
    whole, both = (values(results[name], "vgse", "prototype", "H") for name in ("whole", "texts"))
    similarity = {arm: mean(names["similarity"][arm]) for arm in ("vgse", *WORD_ARMS)}
    return out | {
        "K50_T1_over_random": ratio(*(values(results["K50"], arm, "eszsl", "T1") for arm in ("vgse", "random"))),
        "similarity_correlation": similarity["vgse"],
        "similarity_correlation_words": max(similarity[arm] for arm in WORD_ARMS),
        "oracle_gap_closed": closed.pop("texts"),
        "oracle_gap_closed_by": closed,
        "patch_gain_H": float(100 * np.mean(both - whole)),
        "seconds": {
            **{name: round(value, 1) for name, value in seconds.items()},
            "all": round(sum(seconds.values()), 1),
        },
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
        "taxonomy, mean r": "Names, texts and the taxonomy of their hypernyms, the mean of r",
        "encoder, mean r": "Names, texts and a text encoder's vectors of them, the mean of r",
        "whole": "Names and texts, features of the whole image alone",
        "K50": "Names and texts, 50 clusters; random is the mean of 5 draws",
        "192 px": "Names and texts, the mean of r, whole images encoded at 192 px",
    }
    parts = [
        f"## {said[name]}\n\n```\n{results_text(result['arms'])}\n" + "\n".join(comparison_lines(result["comparisons"]))
        + "\n```\n"
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

{chr(10).join(parts)}"""


def main() -> None:
    """Runs, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quality")
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--vectors", type=Path, help="class vectors of a text encoder")
    parser.add_argument("--at-192", action="store_true", help="also judge at 192 px (encodes all images again)")
    options = parser.parse_args()
    folder, source = options.run.resolve(), options.source.resolve()
    always, vectors = base(source, options.splits), options.vectors and options.vectors.resolve()
    line_ups = filled({**LINE_UPS, **(ENCODER if vectors else {})}, source=source, vectors=vectors)
    stages(folder, always, "crop", "encode")
    seconds = {"networks, K150": networks(folder, always, "K150")}
    seconds["networks, K50"] = networks(folder, (*always, *FEWER), "K50")
    started = time.monotonic()
    results = judge(folder, always, line_ups, options.splits)
    seconds["judging"] = time.monotonic() - started
    if options.at_192:
        results |= at_192(folder, always, options.splits, filled({"": AT_192}, source=source)[""])
    line = figures(results, seconds)
    RESULTS.write_text(report(results, line, options.splits))
    print(json.dumps(line))


if __name__ == "__main__":
    main()

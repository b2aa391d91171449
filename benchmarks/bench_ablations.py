"""What each part is worth: one setting changed at a time, on CIFAR-100, three class splits.

    uv run python benchmarks/bench_ablations.py --run runs/ablations        # continues what is there

Names and texts, 150 clusters, EfficientNet-Lite0 frozen at 96 px; each line is VGSE's mean over the class splits with
one setting changed, and the difference paired by split. Writes benchmarks/results/ablations.md and prints one JSON
object as its last line. The relation and the knowledge cost seconds each, the network's settings minutes.
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
from bench_quality import ROOT, TEXTS, base, run, values

RESULTS = ROOT / "benchmarks/results/ablations.md"
CHEAP = {
    "knowledge: names only": ("--knowledge.texts", "None"),
    "knowledge: names, synonyms": ("--knowledge.text-fields", "synonyms"),
    "knowledge: names, gloss": ("--knowledge.text-fields", "gloss"),
    "knowledge: names, hypernyms": ("--knowledge.text-fields", "hypernyms"),
    "knowledge: texts without names": ("--knowledge.no-names",),
    "knowledge: texts and taxonomy": ("--knowledge.taxonomy", "texts"),
    "knowledge: plain means (sif 0)": ("--knowledge.sif", "0"),
    "relation: no ridge": ("--relate.ridge", "0"),
    "relation: ridge 2": ("--relate.ridge", "2"),
    "relation: alpha -0.1": ("--relate.alpha", "-0.1"),
    "relation: alpha -1, no ridge": ("--relate.alpha", "-1", "--relate.ridge", "0"),
    "relation: weighted average": ("--relate.method", "weighted_average"),
    "relation: kernel ridge": ("--relate.method", "kernel_ridge"),
    "relation: mean of all": ("--relate.method", "mean"),
    "features: whole image": ("--evaluate.features", "whole"),
    "features: mean of patches": ("--evaluate.features", "patches"),
}
TRAINED = {
    "objective: without L_pel": ("--cluster.lambda-pel", "0"),
    "objective: without L_cls": ("--cluster.beta-cls", "0"),
    "objective: without L_sem": ("--cluster.gamma-sem", "0"),
    "objective: without L_clu (1 neighbour in a bank of 1)": ("--cluster.neighbours", "1", "--cluster.bank-size", "1"),
    "neighbours: 1": ("--cluster.neighbours", "1"),
    "neighbours: 20": ("--cluster.neighbours", "20"),
    "clusters: 20": ("--cluster.num-clusters", "20"),
    "clusters: 50": ("--cluster.num-clusters", "50"),
    "clusters: 300": ("--cluster.num-clusters", "300"),
}
CROPPED = {"patches: grid": ("--crop.method", "grid")}
MODELS = ("eszsl", "prototype")
FIGURES = ("T1", "H")


def row(name: str, evaluation: dict[str, Any], reference: dict[str, Any]) -> str:
    """One line of the table: means in percent, and paired differences to the reference in points."""
    cells = []
    for model in MODELS:
        for figure in FIGURES:
            ours, theirs = (100 * values(e, "vgse", model, figure) for e in (evaluation, reference))
            change = (
                "" if evaluation is reference else f" ({np.mean(ours - theirs):+.1f} ± {np.std(ours - theirs):.1f})"
            )
            cells.append(f"{ours.mean():.1f}{change}")
    similarity = evaluation["similarity"]["vgse"]["mean"]
    return f"| {name} | {' | '.join(cells)} | {similarity:.2f} |"


def main() -> None:
    """Runs, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/ablations")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--only", choices=("cheap", "trained", "all"), default="all")
    options = parser.parse_args()
    source = options.source.resolve()
    always = (*base(source, options.splits), *TEXTS)
    variants = {"as it is": (), **CHEAP, **({} if options.only == "cheap" else TRAINED)}
    variants |= CROPPED if options.only == "all" else {}
    found = {}
    for name, overrides in variants.items():
        key = "".join(c if c.isalnum() else "_" for c in name)
        found[name] = run(key, options.run, source, (*always, *overrides))
    rows = "\n".join(row(name, evaluation, found["as it is"]) for name, evaluation in found.items())
    RESULTS.write_text(f"""# One setting at a time: CIFAR-100

VGSE's figures in percent, means over {options.splits} class splits; in brackets the difference to the first line,
paired by class split, with its standard deviation over splits. `similarity`: correlation of class similarity with
image-prototype similarity. Every line chooses its hyperparameters on the validation classes anew. Differences below
about one point are within the spread of class splits.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_ablations.py`.

| changed | ESZSL T1 | ESZSL H | prototype T1 | prototype H | similarity |
|---|---|---|---|---|---|
{rows}
""")
    print(json.dumps({name: {m: e["arms"]["vgse"][m]["T1"]["mean"] for m in MODELS} for name, e in found.items()}))


if __name__ == "__main__":
    main()

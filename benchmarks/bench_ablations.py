"""What each part is worth: one setting changed at a time, on CIFAR-100.

    uv run python benchmarks/bench_ablations.py --run runs/quality            # after bench_quality.py, on its networks
    uv run python benchmarks/bench_ablations.py --run runs/quality --trained  # also the network's settings
    uv run python benchmarks/bench_ablations.py --run runs/quality --grid     # patches on a grid against the watershed

Names and texts, EfficientNet-Lite0 frozen at 96 px, six class splits; each line is VGSE's mean over class splits with
one setting changed, and the difference paired by split. What needs networks of its own is compared on 40 images a
class. Writes benchmarks/results/ablations.md (--grid: its section on patches alone) and prints one JSON object as its
last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from bench_quality import filled, values
from line_ups import MODELS, ROOT, TEXTS, LineUp, base, judge, stages
from networks_here import train_here

RESULTS = ROOT / "benchmarks/results/ablations.md"
KEYS = [(model, figure) for model in MODELS for figure in ("T1", "H")]
JUDGED = {
    "as it is": (),
    "knowledge: names only": ("--knowledge.texts", "None"),
    "knowledge: names, synonyms": ("--knowledge.text-fields", "synonyms"),
    "knowledge: names, gloss": ("--knowledge.text-fields", "gloss"),
    "knowledge: names, hypernyms": ("--knowledge.text-fields", "hypernyms"),
    "knowledge: texts without names": ("--knowledge.no-names",),
    "knowledge: and the taxonomy": ("--knowledge.taxonomy", "texts"),
    "knowledge: plain means of words (sif 0)": ("--knowledge.sif", "0"),
    "knowledge: not centred (relate.words l2)": ("--relate.words", "l2"),
    "relation: no ridge": ("--relate.ridge", "0"),
    "relation: ridge 2": ("--relate.ridge", "2"),
    "relation: alpha -0.1": ("--relate.alpha", "-0.1"),
    "relation: alpha -1, no ridge": ("--relate.alpha", "-1", "--relate.ridge", "0"),
    "relation: weighted average": ("--relate.method", "weighted_average"),
    "relation: kernel ridge": ("--relate.method", "kernel_ridge"),
    "relation: mean over methods and sources": ("--relate.method", "mean"),
    "evaluation: unseen embeddings at their own length": ("--evaluate.no-match-lengths",),
}
# One network a class split instead of two; choices are then made with a network that has met the val images.
FEW = ("--data.images-per-class", "40", "--cluster.no-validation-fit")
AS_IT_IS = "as it is, 40 images a class"
TRAINED = {
    AS_IT_IS: (),
    "objective: without L_pel": ("--cluster.lambda-pel", "0"),
    "objective: without L_cls": ("--cluster.beta-cls", "0"),
    "objective: without L_sem": ("--cluster.gamma-sem", "0"),
    "objective: without L_clu (a bank of 1)": ("--cluster.neighbours", "1", "--cluster.bank-size", "1"),
    "neighbours: 1": ("--cluster.neighbours", "1"),
    "clusters: 20": ("--cluster.num-clusters", "20"),
    "clusters: 300": ("--cluster.num-clusters", "300"),
}
GRID = "patches: a grid"
PATCHES = "## Watershed or grid"

Figures = dict[tuple[str, str], np.ndarray]


def figures(evaluations: Mapping[str, dict[str, Any]]) -> dict[str, Figures]:
    """VGSE's figures of every evaluation by model and name, one per class split, in percent."""
    return {name: {key: 100 * values(each, "vgse", *key) for key in KEYS} for name, each in evaluations.items()}


def trained(folder: Path, always: tuple[str, ...], source: Path, splits: int, settings: dict[str, Any]) -> dict:
    """Networks with one setting changed, on 40 images a class in a run directory of their own."""
    always = (*always, *FEW)
    stages(folder, always, "crop", "encode")
    kept = {name: "kept-" + "".join(c if c.isalnum() else "-" for c in name) for name in settings}
    train_here(folder, always, {kept[name]: overrides for name, overrides in settings.items()})
    line_ups = {name: LineUp(TEXTS, kept[name], ("vgse",)) for name in settings}
    return figures(judge(folder, always, filled(line_ups, source=source), splits))


def table(found: dict[str, Figures]) -> str:
    """Means in percent, and paired differences in points to the first line."""
    reference = next(iter(found.values()))
    rows = []
    for name, ours in found.items():
        cells = []
        for key, numbers in ours.items():
            change = numbers - reference[key]
            told = "" if ours is reference else f" ({change.mean():+.1f} ± {change.std(ddof=1):.1f})"
            cells.append(f"{numbers.mean():.1f}{told}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = "| changed | ESZSL T1 | ESZSL H | prototype T1 | prototype H |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def watershed_or_grid(folder: Path, always: tuple[str, ...], source: Path, splits: int) -> dict[str, Figures]:
    """The same networks on patches of the watershed and of a grid; replaces that section of the page."""
    found = trained(folder.with_name(f"{folder.name}-few"), always, source, splits, {AS_IT_IS: ()})
    grid = (*always, "--crop.method", "grid")
    found |= trained(folder.with_name(f"{folder.name}-grid"), grid, source, splits, {GRID: ()})
    page = RESULTS.read_text().split(f"\n{PATCHES}")[0].rstrip()
    told = measured("--grid", "Both networks trained by the same functions in this machine's processes.")
    RESULTS.write_text(f"{page}\n\n{PATCHES}\n\n{told}\n\n{table(found)}")
    return found


def measured(flags: str, more: str = "") -> str:
    """The sentence that says when, where and how figures were measured."""
    machine = f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU"
    command = f"uv run python benchmarks/bench_ablations.py {flags}".strip()
    return f"Measured {date.today()} on {machine}, with\n`{command}`. {more}".rstrip()


def main() -> None:
    """Judges, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quality")
    parser.add_argument("--splits", type=int, default=6, help="class splits of the run directory")
    parser.add_argument("--trained", action="store_true", help="also settings that need networks of their own")
    parser.add_argument("--grid", action="store_true", help="only patches on a grid against the watershed")
    options = parser.parse_args()
    source, folder = options.source.resolve(), options.run.resolve()
    always = base(source, options.splits)
    if options.grid:
        said(watershed_or_grid(folder, always, source, options.splits))
        return
    line_ups = {name: LineUp((*TEXTS, *each), "kept-K150", ("vgse",)) for name, each in JUDGED.items()}
    parts = {"Knowledge and relation": figures(judge(folder, always, filled(line_ups, source=source), options.splits))}
    if options.trained:
        few = folder.with_name(f"{folder.name}-few")
        parts["The network"] = trained(few, always, source, options.splits, TRAINED)
    RESULTS.write_text(f"""# One setting at a time: CIFAR-100

VGSE's figures in percent, means over {options.splits} class splits; in brackets the difference to the first line of the
table, paired by class split, with its standard deviation over splits. Names and texts, 150 clusters, EfficientNet-Lite0
frozen at 96 px. Every line chooses its hyperparameters on the validation classes anew. Differences below about one
point are within the spread of class splits. "The network" is on 40 images a class, with one network per class
split, which also serves for the choices.

{measured("--trained" * options.trained)}

{chr(10).join(f"## {title}{chr(10)}{chr(10)}{table(found)}" for title, found in parts.items())}""")
    said({name: each for part in parts.values() for name, each in part.items()})


def said(found: dict[str, Figures]) -> None:
    """Prints the JSON line."""
    print(json.dumps({n: {f"{m}_{f}": round(v.mean(), 2) for (m, f), v in k.items()} for n, k in found.items()}))


if __name__ == "__main__":
    main()

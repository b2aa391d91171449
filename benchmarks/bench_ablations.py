"""What each part is worth: one setting changed at a time, on CIFAR-100.

    uv run python benchmarks/bench_ablations.py --run runs/quality            # after bench_quality.py, on its networks
    uv run python benchmarks/bench_ablations.py --run runs/quality --trained  # also the network's settings: hours

Names and texts, EfficientNet-Lite0 frozen at 96 px, the networks that the run directory holds; each line is VGSE's mean
over class splits with one setting changed, and the difference paired by split. Knowledge and relation are judged in
this process, on episodes prepared once; the network's settings go through `vgse run`. Writes
benchmarks/results/ablations.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
from bench_quality import MODELS, ROOT, TEXTS, base, run, values

from vgse.config_loading import load_config
from vgse.pipeline.crop import committed_images
from vgse.pipeline.embed import read_embeddings
from vgse.pipeline.evaluate import prepared_episode
from vgse.pipeline.plan import Plan, make_plan
from vgse.pipeline.problems import Problem
from vgse.pipeline.relate import relation_settings
from vgse.relation import PreparedRelation
from vgse.zsl.controls import carried
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.protocol import evaluate_arm
from vgse.zsl.settings import ZslSettings

RESULTS = ROOT / "benchmarks/results/ablations.md"
FIGURES = ("T1", "H")
JUDGED_HERE = {
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
}
TRAINED = {
    "objective: without L_pel": ("--cluster.lambda-pel", "0"),
    "objective: without L_cls": ("--cluster.beta-cls", "0"),
    "objective: without L_sem": ("--cluster.gamma-sem", "0"),
    "objective: without L_clu (a bank of 1)": ("--cluster.neighbours", "1", "--cluster.bank-size", "1"),
    "neighbours: 1": ("--cluster.neighbours", "1"),
    "neighbours: 20": ("--cluster.neighbours", "20"),
    "clusters: 20": ("--cluster.num-clusters", "20"),
    "clusters: 50": ("--cluster.num-clusters", "50"),
    "clusters: 300": ("--cluster.num-clusters", "300"),
    "patches: grid": ("--crop.method", "grid"),
}


def plan_of(folder: Path, overrides: Sequence[str]) -> Plan:
    """The plan of one variant on the run directory with the trained networks."""
    config = load_config(ROOT / "jobs/configs/cifar100.yaml", [*overrides, "--run", str(folder)])
    return make_plan(config)


def embedded(plan: Plan, problem: Problem) -> np.ndarray:
    """VGSE's class embeddings (C, K) under the plan's knowledge and relation."""
    phi_SK = read_embeddings(plan, problem).phi_SK
    known_CD, seen = plan.known(problem), len(problem.seen)
    relation = PreparedRelation(known_CD[:seen], relation_settings(plan.config.relate), plan.blocks)
    return carried(phi_SK, relation(known_CD[seen:]).r_US, problem.seen_mask)


def judged(
    plan: Plan, episodes: Sequence[Sequence[PreparedEpisode]], settings: ZslSettings
) -> dict[tuple[str, str], np.ndarray]:
    """Figures by model and name, one per class split, in percent."""
    found: dict[tuple[str, str], list[float]] = {(model, figure): [] for model in MODELS for figure in FIGURES}
    for each, prepared in zip(plan.rounds(), episodes, strict=False):
        *choices, final = [embedded(plan, problem) for problem in each.problems]
        results = evaluate_arm(choices, prepared[:-1], final, prepared[-1], settings)
        for model, figure in found:
            found[model, figure].append(100 * getattr(results[model].figures, figure))
    return {name: np.array(numbers) for name, numbers in found.items()}


def row(name: str, ours: dict[tuple[str, str], np.ndarray], reference: dict[tuple[str, str], np.ndarray]) -> str:
    """One line of the table: means in percent, and paired differences to the reference in points."""
    cells = []
    for key, numbers in ours.items():
        change = numbers - reference[key]
        told = "" if ours is reference else f" ({change.mean():+.1f} ± {change.std(ddof=1):.1f})"
        cells.append(f"{numbers.mean():.1f}{told}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Judges, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quality")
    parser.add_argument("--splits", type=int, default=6, help="class splits of the run directory")
    parser.add_argument("--judged", type=int, default=3, help="so many of them are judged")
    parser.add_argument("--trained", action="store_true", help="also settings that need networks of their own")
    options = parser.parse_args()
    source, folder = options.source.resolve(), options.run.resolve()
    always = (*base(source, options.splits), *(text.format(source=source) for text in TEXTS))
    plan, settings = plan_of(folder, always), ZslSettings(models=MODELS)
    frame, rounds = committed_images(plan), list(plan.rounds())[: options.judged]
    episodes = [[prepared_episode(plan, frame, problem, settings) for problem in each.problems] for each in rounds]
    found = {"as it is": judged(plan, episodes, settings)}
    for name, overrides in JUDGED_HERE.items():
        found[name] = judged(plan_of(folder, (*always, *overrides)), episodes, settings)
        print(row(name, found[name], found["as it is"]), flush=True)
    for name, overrides in TRAINED.items() if options.trained else ():
        evaluation = run(name, folder.with_name(f"{folder.name}-trained"), source, (*always, *overrides))
        keys = found["as it is"]
        found[name] = {key: 100 * values(evaluation, "vgse", *key)[: options.judged] for key in keys}
    clusters = read_embeddings(plan, rounds[0].final).phi_SK.shape[1]
    RESULTS.write_text(f"""# One setting at a time: CIFAR-100

VGSE's figures in percent, means over {options.judged} class splits; in brackets the difference to the first line,
paired by class split, with its standard deviation over splits. Names and texts, {clusters} clusters, EfficientNet-Lite0
frozen at 96 px. Every line chooses its hyperparameters on the validation classes anew. Differences below about one
point are within the spread of class splits.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_ablations.py`.

| changed | ESZSL T1 | ESZSL H | prototype T1 | prototype H |
|---|---|---|---|---|
{chr(10).join(row(name, figures, found["as it is"]) for name, figures in found.items())}
""")
    print(json.dumps({n: {f"{m}_{f}": round(v.mean(), 2) for (m, f), v in k.items()} for n, k in found.items()}))


if __name__ == "__main__":
    main()

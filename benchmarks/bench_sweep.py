"""A tuning campaign on CIFAR-100: what it costs beside its trainings, what kills do to it, what ASHA saves.

    uv run python benchmarks/bench_sweep.py            # both sizes, about 20 minutes on two cores
    uv run python benchmarks/bench_sweep.py --quick    # the smaller size alone

EfficientNet-Lite0 frozen at 96 px; features are encoded first and not timed. Five D_v x six alpha as one `vgse tune`
against the five trainings alone: the same fits by the same function, as many processes of one thread as there are
cores, without Ray, without relations and figures. The campaign is then killed (SIGKILL to the whole process group)
three times and continued; best.yaml is run; and 24 trials are run with ASHA and without. Writes
benchmarks/results/sweep.md and prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from line_ups import ROOT, base, plan_of, stages

RESULTS = ROOT / "benchmarks/results/sweep.md"
D_V, ALPHA = [20, 50, 100, 150, 300], [-1.0, -0.5, -0.2, -0.1, -0.05, 0.0]
PAIRS = {"cluster.num_clusters": {"grid": D_V}, "relate.alpha": {"grid": ALPHA}}
WIDE = {
    "cluster.num_clusters": {"grid": [20, 50, 100, 150]},
    "cluster.learning_rate": {"grid": [3e-4, 3e-3, 3e-2]},
    "cluster.lambda_pel": {"grid": [1.0, 5.0]},
    "relate.alpha": {"grid": [-0.1, 0.0]},
}
# (images a class, epochs): the smaller size shows everything, the larger one what a campaign costs.
SIZES = ((40, 10), (100, 20))
# So many epochs leave ASHA something to save.
ASHA_EPOCHS = 40
KILLS = 3


def overrides(source: Path, images: int, epochs: int) -> tuple[str, ...]:
    """The run's settings beside jobs/configs/cifar100.yaml."""
    return (
        *base(source, 1), "--data.images-per-class", str(images),
        "--knowledge.texts", str(source / "data/cifar100/class_texts.jsonl"),
        "--encode.oracle-images", "0", "--cluster.epochs", str(epochs),
    )  # fmt: skip


def campaign_file(folder: Path, name: str, always: Sequence[str], **tune: Any) -> Path:
    """The whole configuration of a campaign on the run directory."""
    values = plan_of(folder, always).config.public_dict() | {"tune": tune}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(*arguments: Any) -> list[str]:
    """`vgse` in this interpreter."""
    return [sys.executable, "-m", "vgse.cli", *map(str, arguments)]


def campaign(folder: Path, path: Path) -> tuple[float, list[dict[str, Any]]]:
    """A campaign from nothing: its seconds from start to end of the command, and its rows."""
    shutil.rmtree(folder / "tuning", ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(command("tune", path), check=True, cwd=ROOT, stdout=sys.stderr)
    return time.perf_counter() - began, rows(folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the campaign that ended last."""
    return pq.read_table(folder / "tuning/trials.parquet").to_pylist()


def trainings_alone(folder: Path, always: Sequence[str]) -> float:
    """Seconds of the five fits without Ray, from the start of their processes to their end."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    scratch = folder / "alone"
    shutil.rmtree(scratch, ignore_errors=True)
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_train_alone, *zip(*((folder, tuple(always), k, scratch) for k in D_V), strict=True)))
    seconds = time.perf_counter() - began
    shutil.rmtree(scratch)
    return seconds


def _train_alone(folder: Path, always: tuple[str, ...], num_clusters: int, scratch: Path) -> None:
    from vgse.pipeline.accounts import committed_images
    from vgse.pipeline.cluster import fit_task
    from vgse.pipeline.fit_task import Place
    from vgse.pipeline.fit_worker import train_fit
    from vgse.pipeline.session import limit_threads

    limit_threads(1)
    plan = plan_of(folder, (*always, "--cluster.num-clusters", str(num_clusters)))
    (problem,) = next(iter(plan.rounds())).choices
    cluster = plan.config.cluster.model_copy(update={"keep_best": 0})
    task = fit_task(plan, committed_images(plan), problem, str(scratch / str(num_clusters)))
    settings = {"storage": plan.storage, "run": plan.run, "board": _Nobody(), "cluster": cluster, "threads": 1}
    train_fit(task, settings, Place(on_node=os.cpu_count() or 1), lambda figures: None)


class _Nobody:
    def pin(self, kind: str, content: Any) -> None:
        """Nobody watches."""


def _killed(folder: Path, always: Sequence[str]) -> dict[str, Any]:
    """The campaign from nothing, killed three times in the middle of trials and continued by the same command."""
    undisturbed = {pair(row): row["val_H"] for row in rows(folder)}
    path = campaign_file(folder, "pairs", always, space=PAIRS)
    shutil.rmtree(folder / "tuning", ignore_errors=True)
    at_kill = []
    for number in range(1, KILLS + 1):
        before = epochs_done(folder)
        process = subprocess.Popen(command("tune", path), cwd=ROOT, stdout=sys.stderr, start_new_session=True)
        # In the middle: trials have ended, and another has done some of its epochs since this start.
        while len(ended(folder)) < number or epochs_done(folder) == before:
            assert process.poll() is None, "the campaign ended before it could be killed"
            time.sleep(0.05)
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        at_kill.append(len(ended(folder)))
    subprocess.run(command("tune", path), check=True, cwd=ROOT, stdout=sys.stderr)
    found = rows(folder)
    return {
        "killed_rows": len(found),
        "killed_twice": len(found) - len({pair(row) for row in found}),
        "killed_records": len(ended(folder)),
        "ended_at_kills": at_kill,
        "killed_diff": max(abs(row["val_H"] - undisturbed[pair(row)]) for row in found),
    }


def pair(row: dict[str, Any]) -> tuple[int, float]:
    """A row's D_v and alpha."""
    return row["cluster.num_clusters"], row["relate.alpha"]


def ended(folder: Path) -> list[Path]:
    """The records of ended trials."""
    return list(folder.glob("tuning/campaigns/*/trials/*.json"))


def epochs_done(folder: Path) -> int:
    """Epochs in the journals of all fits."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("tuning/fits/*/*/metrics.jsonl"))


def _reproduced(folder: Path, always: Sequence[str]) -> dict[str, float]:
    """`vgse run` of best.yaml: how far its val T1 and H are from the campaign's row."""
    best = max(rows(folder), key=lambda row: row["val_H"])
    subprocess.run(command("run", folder / "tuning/best.yaml"), check=True, cwd=ROOT, stdout=sys.stderr)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    chosen = evaluation["protocol"]["chosen"]["vgse"]["eszsl"][0]
    apart = [abs(chosen[name]["on_choice"] - best[f"val_{name}"]) for name in ("T1", "H")]
    return {"best_reproduced_diff": max(apart)}


def _asha(folder: Path, always: Sequence[str]) -> dict[str, float]:
    """24 trials with ASHA and without, each from nothing."""
    found, always = {}, (*always, "--cluster.epochs", str(ASHA_EPOCHS))
    for name, settings in (("full", {}), ("asha", {"asha": True, "grace_epochs": 2, "reduction": 3.0})):
        found[name] = campaign(folder, campaign_file(folder, name, always, space=WIDE, **settings))
    best = {name: max(row["val_H"] for row in each if row["val_H"] is not None) for name, (_, each) in found.items()}
    trials = {row["trial"]: row["status"] for row in found["asha"][1]}
    epochs = {name: sum({row["trial"]: row["epochs"] for row in each}.values()) for name, (_, each) in found.items()}
    return {
        "asha_trials": len(trials),
        "asha_stopped_share": list(trials.values()).count("stopped") / len(trials),
        "asha_h_ratio": best["asha"] / best["full"],
        "asha_time_ratio": found["asha"][0] / found["full"][0],
        "asha_epochs_ratio": epochs["asha"] / epochs["full"],
        "asha_s": found["asha"][0],
        "full_s": found["full"][0],
    }


def _cost(folder: Path, always: Sequence[str]) -> dict[str, float]:
    """The campaign against its trainings alone, which run before and after it."""
    path = campaign_file(folder, "pairs", always, space=PAIRS)
    before = trainings_alone(folder, always)
    seconds, found = campaign(folder, path)
    after = trainings_alone(folder, always)
    assert len({pair(row) for row in found if row["status"] == "done"}) == len(found)
    alone = (before + after) / 2
    return {
        "cost_ratio": seconds / alone,
        "campaign_s": seconds,
        "alone_s": alone,
        "alone_apart": abs(before - after) / alone,
        "epochs_s": sum({row["trial"]: row["training_s"] for row in found}.values()),
        "scoring_s": sum({row["trial"]: row["scoring_s"] for row in found}.values()),
        "rows": len(found),
    }


def measure(folder: Path, source: Path, images: int, epochs: int, *, everything: bool) -> dict[str, Any]:
    """One size."""
    always = overrides(source, images, epochs)
    stages(folder, always, "crop", "encode")
    found: dict[str, Any] = {"images_per_class": images, "epochs": epochs}
    for part in (_cost, _reproduced, *((_killed, _asha) if everything else ())):
        found |= part(folder, always)
        print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measures, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/sweep", help="run directories: this name and a size")
    parser.add_argument("--quick", action="store_true", help="the smaller size alone")
    options = parser.parse_args()
    source = options.source.resolve()
    sizes = []
    for images, epochs in SIZES[: 1 if options.quick else None]:
        folder = options.run.resolve().with_name(f"{options.run.name}-{images}")
        folder.mkdir(parents=True, exist_ok=True)
        sizes.append(measure(folder, source, images, epochs, everything=not sizes))
    if not options.quick:
        RESULTS.write_text(page(sizes))
    # Ratios of the larger size, everything else of the smaller.
    print(json.dumps({**sizes[0], **sizes[-1], "sizes": sizes}))


def page(sizes: list[dict[str, Any]]) -> str:
    """benchmarks/results/sweep.md."""
    small = sizes[0]
    lines = [
        f"| {each['images_per_class']} | {each['epochs']} | {each['alone_s']:.1f} | "
        f"{100 * each['alone_apart']:.1f} % | {each['campaign_s']:.1f} | **{each['cost_ratio']:.3f}** | "
        f"{each['rows']} | {each['scoring_s']:.1f} | {each['best_reproduced_diff']:.1e} |"
        for each in sizes
    ]
    return f"""# Tuning campaigns: CIFAR-100

Five D_v x six alpha (30 rows) as one `vgse tune`, against the five trainings alone: the same fits by the same function
in {os.cpu_count()} processes of one thread, without Ray, relations and figures, run before and after the campaign. Both
are timed from the start of the command or the processes to their end, so the campaign's time holds Ray's start.
EfficientNet-Lite0 frozen at 96 px, names and texts; features encoded before, not timed.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_sweep.py`.

| images a class | epochs | five trainings, s | apart | campaign, s | ratio | rows | scoring, s | best.yaml differs by |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(lines)}

"apart": how far the two runs of the trainings alone lie apart. "scoring": seconds of embedding classes and scoring all
relations, added up over trials. "best.yaml differs by": largest difference of val T1 and H in `vgse run best.yaml` from
the campaign's row.

| at {small["images_per_class"]} images a class | |
|---|---|
| killed by SIGKILL, after so many ended trials | {", ".join(map(str, small["ended_at_kills"]))} |
| rows after the last start, of them twice | {small["killed_rows"]}, {small["killed_twice"]} |
| records of ended trials | {small["killed_records"]} |
| largest difference of val H from the undisturbed campaign | {small["killed_diff"]:.1e} |
| ASHA ({ASHA_EPOCHS} epochs): trials, stopped | {small["asha_trials"]}, {100 * small["asha_stopped_share"]:.0f} % |
| ASHA: best val H over that of the full grid | {small["asha_h_ratio"]:.4f} |
| ASHA: time over that of the full grid | {small["asha_time_ratio"]:.3f} |
| ASHA: its time, that of the full grid, s | {small["asha_s"]:.0f}, {small["full_s"]:.0f} |
| ASHA: epochs over those of the full grid | {small["asha_epochs_ratio"]:.3f} |

```
{json.dumps(sizes, indent=1)}
```
"""


if __name__ == "__main__":
    main()

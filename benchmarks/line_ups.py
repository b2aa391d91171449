"""Line-ups of arms on CIFAR-100 for the benchmarks: networks by `vgse`, judging in processes of their own.

Many line-ups differ in knowledge and relation alone. They are judged together, so that an episode's images are mapped
and decomposed once for all of them, one class split per process and one thread per process. What is computed is what
`vgse relate` and `vgse evaluate` compute, by the same functions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/configs/cifar100.yaml"
MODELS = ("eszsl", "prototype")
TEXTS = ("--knowledge.texts", "{source}/data/cifar100/class_texts.jsonl")


@dataclass(frozen=True)
class LineUp:
    """What is judged: overrides of the configuration, the networks' folder of embeddings, and which arms (all: ())."""

    overrides: tuple[str, ...]
    embeddings: str
    arms: tuple[str, ...] = ()


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


def stages(folder: Path, overrides: Sequence[str], *names: str) -> None:
    """Runs stages of `vgse` in the run directory, or finds them done."""
    for name in names:
        command = [sys.executable, "-m", "vgse.cli", name, str(CONFIG), "--run", str(folder), *overrides]
        subprocess.run(command, check=True, cwd=ROOT)


def networks(folder: Path, overrides: Sequence[str], name: str) -> float:
    """Trains networks and keeps their seen embeddings as `name`; seconds of the two stages."""
    timed = folder / f"kept-{name}.json"
    if not timed.exists():
        stages(folder, overrides, "cluster", "embed")
        shutil.copytree(folder / "embeddings", folder / f"kept-{name}", dirs_exist_ok=True)
        receipts = [json.loads((folder / f"receipts/{stage}.json").read_text()) for stage in ("cluster", "embed")]
        timed.write_text(json.dumps(sum(receipt["seconds"] for receipt in receipts)))
    return float(json.loads(timed.read_text()))


def judge(
    folder: Path,
    always: Sequence[str],
    line_ups: Mapping[str, LineUp],
    splits: int,
    said: Callable[[str], None] = lambda sentence: print(sentence, file=sys.stderr, flush=True),
) -> dict[str, Any]:
    """evaluation.json of every line-up, by name.

    Args:
        folder: the run directory with features and kept embeddings.
        always: overrides of all line-ups.
        line_ups: what is judged.
        splits: so many of the run's class splits.
        said: told when a class split is done.
    """
    from vgse.pipeline.evaluate import summarised

    # Read by the processes when they load their libraries; this one has loaded them already.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        parts = []
        for part in pool.map(_judge_split, *zip(*((n, folder, always, line_ups) for n in range(splits)), strict=True)):
            parts.append(part)
            said(f"judged class split {len(parts)} of {splits}")
    summaries = {}
    for name, line_up in line_ups.items():
        plan = plan_of(folder, (*always, *line_up.overrides))
        summaries[name] = summarised(plan, list(plan.rounds())[:splits], [part[name] for part in parts])
    return summaries


def plan_of(folder: Path, overrides: Sequence[str]) -> Any:
    """The plan of one variant on the run directory."""
    from vgse.config_loading import load_config
    from vgse.pipeline.plan import make_plan

    return make_plan(load_config(CONFIG, [*overrides, "--run", str(folder)]))


def _judge_split(number: int, folder: Path, always: Sequence[str], line_ups: Mapping[str, LineUp]) -> dict[str, Any]:
    """One class split: results by arm and similarity by arm, of every line-up."""
    import torch

    from vgse.pipeline.accounts import committed_images
    from vgse.pipeline.evaluate import prepared_episode, zsl_settings

    torch.set_num_threads(1)
    prepared: dict[Any, list[Any]] = {}
    judged: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, line_up in line_ups.items():
        plan = plan_of(folder, (*always, *line_up.overrides))
        evaluate, each = plan.config.evaluate, list(plan.rounds())[number]
        kind = (evaluate.features, evaluate.input_size)
        settings = replace(zsl_settings(plan.config), models=MODELS)
        if kind not in prepared:
            frame = committed_images(plan)
            prepared[kind] = [prepared_episode(plan, frame, problem, settings) for problem in each.problems]
        arms = [_arms(plan, problem, folder / line_up.embeddings) for problem in each.problems]
        chosen = replace(settings, models=evaluate.models)
        found[name] = _judge_arms(arms, prepared[kind], chosen, line_up.arms or tuple(arms[-1]), judged, kind)
    return found


def _arms(plan: Any, problem: Any, embeddings: Path) -> dict[str, np.ndarray]:
    from vgse.pipeline.embed import SeenEmbeddings
    from vgse.pipeline.evaluate import problem_arms
    from vgse.pipeline.relate import relation_settings
    from vgse.relation import PreparedRelation

    with np.load(embeddings / f"{problem.name}.npz", allow_pickle=False) as arrays:
        seen = SeenEmbeddings(arrays["phi_SK"], arrays["oracle_UK"])
    known_CD, count = plan.known(problem), len(problem.seen)
    relation = PreparedRelation(known_CD[:count], relation_settings(plan.config.relate), plan.blocks)
    return problem_arms(plan, problem, seen, relation(known_CD[count:]).dense())


def _judge_arms(
    arms: list[dict[str, np.ndarray]], episodes: list[Any], settings: Any, names: Sequence[str], judged: dict, kind: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """Results and similarities of some arms; what was judged before under another name is not judged again."""
    from vgse.zsl.protocol import evaluate_arm
    from vgse.zsl.similarity import similarity_correlation

    prototypes_CF, results, similarity = episodes[-1].prototypes(), {}, {}
    for name in names:
        every = [each[name] for each in arms]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(e_CK).tobytes() for e_CK in every)).hexdigest()
        key = (digest, settings, kind)
        if key not in judged:
            judged[key] = evaluate_arm(every[:-1], episodes[:-1], every[-1], episodes[-1], settings)
        results[name], similarity[name] = judged[key], similarity_correlation(every[-1], prototypes_CF)
    return results, similarity

"""evaluate: what the embeddings are worth in zero-shot and generalised zero-shot learning, beside the controls."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from vgse import __version__
from vgse.pipeline.crop import committed_images
from vgse.pipeline.embed import features_folder, read_embeddings
from vgse.pipeline.features import episode_rows, feature_name, open_arrays
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.relate import read_relations
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.storage import join
from vgse.zsl.controls import build_arms
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.protocol import ModelResult, evaluate_arms
from vgse.zsl.settings import ZslSettings
from vgse.zsl.summary import aggregate
from vgse.zsl.table import results_text


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("evaluation.json")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Judges every class split and writes evaluation.json."""
    frame = committed_images(plan)
    settings = ZslSettings(models=plan.config.evaluate.models, seed=plan.config.seed)
    problems = list(plan.problems())
    per_split, images = [], 0
    progress.start(len(plan.splits), "splits")
    for choice, final in zip(problems[::2], problems[1::2], strict=True):
        episodes = [PreparedEpisode(_episode(plan, frame, problem), settings) for problem in (choice, final)]
        images += len(episodes[1].episode.test_seen) + len(episodes[1].episode.test_unseen)
        per_split.append(_judge(plan, choice, final, episodes, settings, progress))
        progress.advance(1)
    summary = aggregate(per_split)
    summary["protocol"] |= {
        "version": __version__,
        "data": plan.inputs.data,
        "split": plan.inputs.split,
        "classes": {part: len(getattr(plan.splits[0], part)) for part in ("train", "val", "unseen")},
        "num_clusters": plan.config.cluster.num_clusters,
        "relation": plan.config.relate.model_dump(mode="json"),
    }
    plan.storage.write_bytes(plan.uri("evaluation.json"), json.dumps(summary, indent=1).encode())
    return StageOutcome(len(frame), images, details={"arms": list(summary["arms"])})


def print_results(plan: Plan) -> None:
    """The table of evaluation.json, with what it means below."""
    summary = json.loads(plan.storage.read_bytes(plan.uri("evaluation.json")))
    splits = summary["protocol"]["class_splits"]
    title = f"Zero-shot figures in percent, {splits} class split{'s, mean ± std' if splits > 1 else ''}"
    print("\n" + results_text(summary["arms"], title))
    print(
        "T1: unseen classes among themselves. u, s: unseen and seen classes among all, H their harmonic mean.\n"
        "vgse should beat words_* (the same knowledge without images) and random, one_hot, permuted (the same\n"
        "relation without visual content); oracle uses the unseen classes' own images: out of reach by design."
    )
    print(f"evaluation: {plan.uri('evaluation.json')}")


def _judge(
    plan: Plan,
    choice: Problem,
    final: Problem,
    episodes: list[PreparedEpisode],
    settings: ZslSettings,
    progress: Progress,
) -> dict[str, dict[str, ModelResult]]:
    arms = [_arms(plan, problem) for problem in (choice, final)]
    # The oracle stands beside the others only where every class has images for it.
    shared = [name for name in arms[1] if name in arms[0]]
    chosen = [{name: every[name] for name in shared} for every in arms]
    return evaluate_arms(chosen[0], episodes[0], chosen[1], episodes[1], settings, on_arm=progress.note)


def _arms(plan: Plan, problem: Problem) -> dict[str, np.ndarray]:
    embeddings = read_embeddings(plan, problem)
    whole = np.isfinite(embeddings.oracle_UK).all()
    return build_arms(
        embeddings.phi_SK,
        read_relations(plan, problem),
        plan.words(problem.classes),
        problem.seen_mask,
        embeddings.oracle_UK if whole else None,
        seed=plan.config.seed,
    )


def _episode(plan: Plan, frame: pd.DataFrame, problem: Problem) -> Episode:
    row_of = {name: i for i, name in enumerate(problem.classes)}
    labels = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
    parts = episode_rows(frame, problem, plan)
    folder = features_folder(plan, problem)
    sets = _image_sets(plan, frame, folder, labels, parts)
    return Episode(problem.classes, problem.seen_mask, *sets)


def _image_sets(plan: Plan, frame: pd.DataFrame, folder: str, labels: np.ndarray, parts: Any) -> list[ImageSet]:
    """Whole-image features of each part, gathered from one shard at a time."""
    gathered: list[list[np.ndarray]] = [[] for _ in parts]
    number, names = pd.factorize(frame.shard)
    for i, name in enumerate(names):
        here = number == i
        whole = open_arrays(plan.storage.local_copy(join(folder, feature_name(name))))["whole"]
        for rows, features in zip(parts, gathered, strict=True):
            features.append(whole[rows[here]])
    return [ImageSet(np.concatenate(features), labels[rows]) for rows, features in zip(parts, gathered, strict=True)]

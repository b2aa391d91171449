"""evaluate: what the embeddings are worth in zero-shot and generalised zero-shot learning, beside the controls.

What all arms share of an episode (normal equations, their decomposition) is computed once; the arms are then judged by
Ray tasks, each of which maps the feature shards itself, so nothing of the size of the data is held or sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from vgse import __version__
from vgse.pipeline.crop import committed_images
from vgse.pipeline.embed import features_folder, read_embeddings
from vgse.pipeline.features import episode_rows
from vgse.pipeline.image_features import image_features
from vgse.pipeline.normal_equations import accumulated
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.problems import Round
from vgse.pipeline.relate import read_relations
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.zsl.comparisons import random_draws
from vgse.zsl.controls import build_arms
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.mode import Mode
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.protocol import ModelResult, evaluate_arm, evaluate_arm_as_published
from vgse.zsl.settings import ZslSettings
from vgse.zsl.similarity import similarity_correlation
from vgse.zsl.summary import aggregate, over_splits
from vgse.zsl.table import evaluation_text

Results = dict[str, dict[str, ModelResult]]


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("evaluation.json")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Judges every round and writes evaluation.json."""
    frame = committed_images(plan)
    settings = ZslSettings(models=plan.config.evaluate.models, seed=plan.config.seed)
    rounds = list(plan.rounds())
    judged: list[tuple[Results, dict[str, float]]] = []
    images = 0
    progress.start(len(rounds), "rounds")
    for each in rounds:
        rows = episode_rows(frame, each.final, plan)
        images += int(rows[1].sum() + rows[2].sum())
        judged.append(_judge(plan, frame, each, settings, progress))
        progress.advance(1)
    common = [arm for arm in judged[0][0] if all(arm in results for results, _ in judged)]
    if "oracle" not in common:
        progress.say("evaluate: no oracle arm, since some class has no images for it (encode.oracle_images)")
    summary = _summary(plan, rounds, [{arm: results[arm] for arm in common} for results, _ in judged])
    summary["similarity"] = _similarity([similarity for _, similarity in judged], list(summary["arms"]))
    plan.storage.write_bytes(plan.uri("evaluation.json"), json.dumps(summary, indent=1, allow_nan=False).encode())
    return StageOutcome(len(frame), images, details={"arms": list(judged[0][0])})


def print_results(plan: Plan) -> None:
    """The table of evaluation.json, with what it means below."""
    summary = json.loads(plan.storage.read_bytes(plan.uri("evaluation.json")))
    print("\n" + evaluation_text(summary))
    print(
        "T1: unseen classes among themselves. u, s: unseen and seen classes among all, H their harmonic mean.\n"
        "vgse should beat words_* and texts (the same knowledge without images) and random, one_hot, permuted (the\n"
        "same relation without visual content); oracle uses the unseen classes' own images: out of reach by design."
    )
    print(f"evaluation: {plan.uri('evaluation.json')}")


def _similarity(per_round: list[dict[str, float]], arms: list[str]) -> dict[str, Any]:
    """Per arm over rounds; that of `random` is the mean of its draws, one that cannot be computed is null."""
    found: dict[str, Any] = {}
    for arm in arms:
        values = [
            float(np.mean([each[name] for name in (random_draws(each) if arm == "random" else [arm])]))
            for each in per_round
        ]
        found[arm] = over_splits(values) if np.isfinite(values).all() else None
    return found


def _summary(plan: Plan, rounds: list[Round], per_round: list[Results]) -> dict[str, Any]:
    config = plan.config
    mode: Mode = "honest" if config.evaluate.protocol == "honest" else "as-published"
    names = [(each.final.seen, each.final.unseen) for each in rounds]
    summary = aggregate(per_round, class_names=names, mode=mode, splits=[each.final.split for each in rounds])
    summary["protocol"] |= {
        "version": __version__,
        "data": plan.inputs.data,
        "split": plan.inputs.split,
        "classes": {part: len(getattr(plan.splits[0], part)) for part in ("train", "val", "unseen")},
        "splits_and_seeds": [[each.final.split, config.seed + each.final.draw] for each in rounds],
        "folds": config.evaluate.folds,
        "validation_fit": config.cluster.validation_fit,
        "features": config.evaluate.features,
        "num_clusters": config.cluster.num_clusters,
        "knowledge": [source.name for source in plan.sources],
        "relation": config.relate.model_dump(mode="json"),
    }
    return summary


def _judge(
    plan: Plan, frame: pd.DataFrame, each: Round, settings: ZslSettings, progress: Progress
) -> tuple[Results, dict[str, float]]:
    """One round: its episodes prepared, then its arms judged side by side.

    Returns:
        Results by arm, and by arm how far classes that look alike have like embeddings.
    """
    import ray

    from vgse.pipeline.session import cpus, limit_threads

    as_published = plan.config.evaluate.protocol == "as_published"
    problems = [each.final] if as_published else list(each.problems)
    arms = [_arms(plan, problem) for problem in problems]
    # The oracle stands beside the others only where every class has images for it.
    shared = [name for name in arms[-1] if all(name in every for every in arms)]
    episodes = [prepared_episode(plan, frame, problem, settings) for problem in problems]
    prototypes_CF = episodes[-1].prototypes()
    prepared = [ray.put(episode) for episode in episodes]

    def judge_arms(names: list[str], arms: list[list[np.ndarray]], *episodes: PreparedEpisode) -> Results:
        limit_threads(1)
        return {name: judge(embeddings, episodes) for name, embeddings in zip(names, arms, strict=True)}

    def judge(embeddings: list[np.ndarray], episodes: tuple[PreparedEpisode, ...]) -> dict[str, ModelResult]:
        if as_published:
            return evaluate_arm_as_published(embeddings[-1], episodes[-1], settings)
        return evaluate_arm(embeddings[:-1], episodes[:-1], embeddings[-1], episodes[-1], settings)

    task = ray.remote(num_cpus=1, max_retries=3)(judge_arms)
    results: Results = {}
    # As many tasks as CPUs: arms of one task share what is computed from the images.
    groups = [shared[first :: cpus()] for first in range(min(cpus(), len(shared)))]
    pending = [task.remote(group, [[every[name] for every in arms] for name in group], *prepared) for group in groups]
    for answer in _as_they_come(pending):
        results |= answer
        progress.note(", ".join(answer))
    similarity = {name: similarity_correlation(arms[-1][name], prototypes_CF) for name in shared}
    return {name: results[name] for name in shared}, similarity


def _as_they_come(pending: list[Any]) -> Iterator[Results]:
    import ray

    while pending:
        (done,), pending = ray.wait(pending, num_returns=1)
        yield ray.get(done)


def prepared_episode(plan: Plan, frame: pd.DataFrame, problem: Problem, settings: ZslSettings) -> PreparedEpisode:
    """A problem's images with all that does not depend on class embeddings."""
    episode = _episode(plan, frame, problem)
    return PreparedEpisode(episode, settings, accumulated(episode, settings))


def _arms(plan: Plan, problem: Problem) -> dict[str, np.ndarray]:
    embeddings = read_embeddings(plan, problem)
    whole = np.isfinite(embeddings.oracle_UK).all()
    return build_arms(
        embeddings.phi_SK,
        read_relations(plan, problem),
        plan.words(problem.classes),
        problem.seen_mask,
        embeddings.oracle_UK if whole else None,
        seed=plan.config.seed + problem.draw,
        fused_CD=plan.known(problem) if plan.more_than_names else None,
        random_draws=plan.config.evaluate.random_draws,
    )


def _episode(plan: Plan, frame: pd.DataFrame, problem: Problem) -> Episode:
    row_of = {name: i for i, name in enumerate(problem.classes)}
    labels = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
    folder = features_folder(plan, problem)
    sets = [
        ImageSet(image_features(plan, frame, folder, rows), labels[rows]) for rows in episode_rows(frame, problem, plan)
    ]
    return Episode(problem.classes, problem.seen_mask, *sets)

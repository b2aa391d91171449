"""evaluate: what the embeddings are worth in zero-shot and generalised zero-shot learning, beside the controls.

What all arms share of an episode (normal equations, their decomposition) is computed once, by a Ray task; the arms are
then judged by others, each of which maps the feature shards itself, so nothing of the size of the data is held or sent.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vgse import __version__
from vgse.config import Config
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.embed import SeenEmbeddings, features_folder, read_embeddings
from vgse.pipeline.features import episode_rows
from vgse.pipeline.image_features import image_features
from vgse.pipeline.normal_equations import accumulated, accumulated_together
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.problems import Round
from vgse.pipeline.relate import read_relations
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.zsl.comparisons import random_draws
from vgse.zsl.controls import build_arms
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.mode import Mode
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.protocol import ModelResult, evaluate_arm, evaluate_arm_as_published
from vgse.zsl.settings import ZslSettings
from vgse.zsl.similarity import similarity_correlation
from vgse.zsl.summary import aggregate, over_splits
from vgse.zsl.table import evaluation_text

if TYPE_CHECKING:
    from vgse.pipeline.board import Board

Results = dict[str, dict[str, ModelResult]]


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("evaluation.json")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Judges every round and writes evaluation.json."""
    from vgse.pipeline.board import Board

    frame = committed_images(plan)
    settings = zsl_settings(plan.config)
    rounds = list(plan.rounds())
    judged: list[tuple[Results, dict[str, float]]] = []
    images, board = 0, Board()
    progress.start(len(rounds), "rounds")
    for each, found in zip(rounds, _judge(plan, frame, rounds, settings, progress, board), strict=True):
        rows = episode_rows(frame, each.final, plan)
        images += int(rows[1].sum() + rows[2].sum())
        judged.append(found)
        progress.advance(1)
    summary = summarised(plan, rounds, judged)
    if "oracle" not in summary["arms"]:
        progress.say("evaluate: no oracle arm, since some class has no images for it (encode.oracle_images)")
    plan.storage.write_bytes(plan.uri("evaluation.json"), json.dumps(summary, indent=1, allow_nan=False).encode())
    return StageOutcome(len(frame), images, details={"arms": list(judged[0][0])}, nodes=board.nodes())


def zsl_settings(config: Config) -> ZslSettings:
    """The zero-shot room's settings from the configuration's."""
    evaluate = config.evaluate
    return ZslSettings(models=evaluate.models, match_lengths=evaluate.match_lengths, seed=config.seed)


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


def summarised(plan: Plan, rounds: list[Round], judged: list[tuple[Results, dict[str, float]]]) -> dict[str, Any]:
    """What goes into evaluation.json.

    Args:
        plan: the run.
        rounds: its rounds.
        judged: for each round results by arm, and by arm how far classes that look alike have like embeddings.
    """
    common = [arm for arm in judged[0][0] if all(arm in results for results, _ in judged)]
    summary = _summary(plan, rounds, [{arm: results[arm] for arm in common} for results, _ in judged])
    summary["similarity"] = _similarity([similarity for _, similarity in judged], list(summary["arms"]))
    return summary


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
        "match_lengths": config.evaluate.match_lengths,
        "num_clusters": config.cluster.num_clusters,
        "knowledge": [source.name for source in plan.sources],
        "relation": config.relate.model_dump(mode="json"),
    }
    return summary


@dataclass(frozen=True)
class _Pending:
    """A round on its way: the arms' names in order, and the tasks that judge them."""

    arms: list[str]
    judged: list[Any]
    similarity: Any


def _judge(
    plan: Plan, frame: pd.DataFrame, rounds: list[Round], settings: ZslSettings, progress: Progress, board: Board
) -> Iterator[tuple[Results, dict[str, float]]]:
    """The rounds in order; their tasks fill the CPUs side by side.

    Returns:
        For each round results by arm, and by arm how far classes that look alike have like embeddings.
    """
    import ray

    from vgse.pipeline.session import cpus

    # A task has one thread, since tasks keep CPUs busier than threads do. Few rounds are cut into several tasks each;
    # of many, so many are on their way that no CPU waits, and no more, as each holds its decompositions in memory.
    tasks_each = -(-cpus() // len(rounds))
    at_once = -(-cpus() // tasks_each) + 1
    under_way: deque[_Pending] = deque()
    for number in range(len(rounds) + at_once):
        if number < len(rounds):
            under_way.append(_start(plan, frame, rounds[number], settings, tasks_each, board))
        if number < at_once:
            continue
        round_ = under_way.popleft()
        results: Results = {}
        for answer in _as_they_come(round_.judged):
            results |= answer
            progress.note(", ".join(answer))
        yield {name: results[name] for name in round_.arms}, ray.get(round_.similarity)


def _start(plan: Plan, frame: pd.DataFrame, each: Round, settings: ZslSettings, tasks: int, board: Board) -> _Pending:
    """Hands a round's episodes to tasks that prepare them, and its arms to tasks that wait for these."""
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.session import limit_threads

    options = session.asks("evaluate", plan.config)[0].remote()
    as_published = plan.config.evaluate.protocol == "as_published"
    problems = [each.final] if as_published else list(each.problems)
    arms = [
        problem_arms(plan, problem, read_embeddings(plan, problem), read_relations(plan, problem))
        for problem in problems
    ]
    # The oracle stands beside the others only where every class has images for it.
    shared = [name for name in arms[-1] if all(name in every for every in arms)]

    def prepare(episode: Episode, statistics: EszslStatistics | None) -> PreparedEpisode:
        limit_threads(1)
        prepared = PreparedEpisode(episode, settings, statistics)
        board.served()
        return prepared

    def judge_arms(names: list[str], arms: list[list[np.ndarray]], *episodes: PreparedEpisode) -> Results:
        limit_threads(1)
        results = {name: judge(embeddings, episodes) for name, embeddings in zip(names, arms, strict=True)}
        board.served()
        return results

    def judge(embeddings: list[np.ndarray], episodes: tuple[PreparedEpisode, ...]) -> dict[str, ModelResult]:
        if as_published:
            return evaluate_arm_as_published(embeddings[-1], episodes[-1], settings)
        return evaluate_arm(embeddings[:-1], episodes[:-1], embeddings[-1], episodes[-1], settings)

    def compare(arms: dict[str, np.ndarray], final: PreparedEpisode) -> dict[str, float]:
        prototypes_CF = final.prototypes()
        return {name: similarity_correlation(e_CK, prototypes_CF) for name, e_CK in arms.items()}

    def task(function: Any) -> Any:
        return ray.remote(max_retries=3, scheduling_strategy="SPREAD", **options)(function)

    episodes = [problem_episode(plan, frame, problem) for problem in problems]
    statistics = accumulated_together(episodes, settings, board=board)
    prepared = [task(prepare).remote(*pair) for pair in zip(episodes, statistics, strict=True)]
    groups = [shared[first::tasks] for first in range(min(tasks, len(shared)))]
    judged = [
        task(judge_arms).remote(group, [[every[name] for every in arms] for name in group], *prepared)
        for group in groups
    ]
    return _Pending(shared, judged, task(compare).remote({name: arms[-1][name] for name in shared}, prepared[-1]))


def _as_they_come(pending: list[Any]) -> Iterator[Results]:
    import ray

    while pending:
        (done,), pending = ray.wait(pending, num_returns=1)
        yield ray.get(done)


def prepared_episode(plan: Plan, frame: pd.DataFrame, problem: Problem, settings: ZslSettings) -> PreparedEpisode:
    """A problem's images with all that does not depend on class embeddings."""
    episode = problem_episode(plan, frame, problem)
    return PreparedEpisode(episode, settings, accumulated(episode, settings))


def problem_arms(plan: Plan, problem: Problem, embeddings: SeenEmbeddings, r_US: np.ndarray) -> dict[str, np.ndarray]:
    """Class embeddings of every arm (see `build_arms`) under the relation r."""
    whole = np.isfinite(embeddings.oracle_UK).all()
    return build_arms(
        embeddings.phi_SK,
        r_US,
        plan.words(problem.classes),
        problem.seen_mask,
        embeddings.oracle_UK if whole else None,
        seed=plan.config.seed + problem.draw,
        fused_CD=plan.known(problem) if plan.more_than_names else None,
        random_draws=plan.config.evaluate.random_draws,
    )


def problem_episode(plan: Plan, frame: pd.DataFrame, problem: Problem) -> Episode:
    """The images that a problem is judged on, with their features."""
    row_of = {name: i for i, name in enumerate(problem.classes)}
    labels = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
    folder = features_folder(plan, problem)
    sets = [
        ImageSet(image_features(plan, frame, folder, rows), labels[rows]) for rows in episode_rows(frame, problem, plan)
    ]
    return Episode(problem.classes, problem.seen_mask, *sets)

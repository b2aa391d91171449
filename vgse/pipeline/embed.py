"""embed: trained networks turn training images into seen-class embeddings phi(y).

Each shard is read by one task, which serves all problems at once and returns per-class float64 sums; the merged result
does not depend on the sharding. In `finetune` mode the same pass over the pixels also yields the features on which the
problem is evaluated.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.cluster import network_folder, serving
from vgse.pipeline.embed_shard import EmbedShard, EmbedTask
from vgse.pipeline.export import write_features_mat
from vgse.pipeline.features import episode_rows, patches_wanted, training_rows
from vgse.pipeline.networks import NetworkRecipe
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.stage import Progress, StageOutcome

if TYPE_CHECKING:
    from vgse.pipeline.board import Board


@dataclass(frozen=True)
class SeenEmbeddings:
    """The embeddings of one problem's classes from their own images.

    `phi_SK` of the seen classes is the method's; `oracle_UK` of the unseen ones (rows of NaN where no image was
    encoded for it) is only ever a control.
    """

    phi_SK: np.ndarray
    oracle_UK: np.ndarray


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("embeddings"), plan.uri("features.mat")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Embeds the classes of every problem."""
    from vgse.pipeline.board import Board

    frame = committed_images(plan)
    finetune = plan.config.cluster.mode == "finetune"
    problems = list(plan.problems())
    tasks = [embed_task(plan, problem, finetune) for problem in problems]
    sums = {task.name: ClassEmbeddingSums(task.classes, task.recipe.num_clusters) for task in tasks}
    shards = frame.shard.unique()
    progress.start(len(frame), "images")
    board = Board()
    for row in _embedded(plan, tasks, shard_blocks(plan, frame, problems), len(shards), board):
        add_shard(sums, row)
        progress.advance(row["rows"])
    used = 0
    for problem in problems:
        _write(plan, problem, sums[problem.name])
        used += int(sums[problem.name].counts_S[: len(problem.seen)].sum())
    main = next(problem for problem in problems if problem.main)
    details = {"features_mat": write_features_mat(plan, frame, main, features_folder(plan, main))}
    return StageOutcome(len(frame), used, details=details, nodes=board.nodes())


def add_shard(sums: dict[str, ClassEmbeddingSums], row: dict[str, Any]) -> None:
    """Adds what a worker answered about one shard to the sums, by problem."""
    for name, part, counts in zip(row["problem"], row["sums"], row["counts"], strict=True):
        sums[name].sums_SK += np.frombuffer(part).reshape(sums[name].sums_SK.shape)
        sums[name].counts_S += np.frombuffer(counts, np.int64)


def read_embeddings(plan: Plan, problem: Problem) -> SeenEmbeddings:
    """What this stage wrote for `problem`."""
    data = plan.storage.read_bytes(plan.uri("embeddings", f"{problem.name}.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return SeenEmbeddings(arrays["phi_SK"], arrays["oracle_UK"])


def features_folder(plan: Plan, problem: Problem) -> str:
    """Where the image features lie on which `problem` is evaluated."""
    if plan.config.cluster.mode == "frozen":
        return plan.uri("features", "images")
    return plan.uri("embeddings", serving(plan, problem).name)


def embed_task(plan: Plan, problem: Problem, finetune: bool) -> EmbedTask:
    """What a worker needs to embed the classes of `problem` with the network that serves it."""
    fitted = serving(plan, problem)
    return EmbedTask(
        name=problem.name,
        classes=len(problem.classes),
        recipe=NetworkRecipe.of(plan.config, len(fitted.seen), plan.words_CW.shape[1], fitted.draw),
        folder=network_folder(plan, problem),
        features_folder=plan.uri("embeddings", problem.name) if finetune and fitted == problem else None,
        features=plan.config.evaluate.features,
        best=plan.config.cluster.serve == "best" and fitted.phase == "choice",
    )


def shard_blocks(plan: Plan, frame: pd.DataFrame, problems: list[Problem]) -> list[pa.Table]:
    """One block per shard: for each problem, every image's class row (-1: not used) and whether its features count."""
    patched = patches_wanted(frame, plan)
    oracle = (frame.role == "train").to_numpy() & (frame["rank"] < plan.config.encode.oracle_images).to_numpy()
    labels, needed = {}, {}
    for problem in problems:
        row_of = {name: i for i, name in enumerate(problem.classes)}
        label = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
        used = training_rows(frame, problem, plan) | (oracle & frame.class_name.isin(problem.unseen).to_numpy())
        labels[problem.name] = np.where(used & patched, label, -1)
        needed[problem.name] = np.logical_or.reduce(episode_rows(frame, problem, plan))
    number, names = pd.factorize(frame.shard)
    blocks = []
    for i, name in enumerate(names):
        here = number == i
        columns = {f"label {p.name}": [labels[p.name][here].tolist()] for p in problems}
        columns |= {f"needed {p.name}": [needed[p.name][here].tolist()] for p in problems}
        blocks.append(pa.table({"shard": [name], "patched": [patched[here].tolist()], **columns}))
    return blocks


def _embedded(
    plan: Plan, tasks: list[EmbedTask], blocks: list[pa.Table], shards: int, board: Board
) -> Iterator[dict[str, Any]]:
    """The sums of every shard, in their order."""
    import ray

    from vgse.pipeline import session

    (ask,) = session.asks("embed", plan.config)
    dataset = ray.data.from_arrow(blocks).map_batches(
        EmbedShard,
        fn_constructor_kwargs={
            "storage": plan.storage,
            "run": plan.run,
            "tasks": tasks,
            "batch_size": plan.config.encode.batch_size,
            "threads": max(1, int(ask.cpus)),
            "board": board,
        },
        batch_size=1,
        batch_format="pyarrow",
        concurrency=min(ask.count, shards),
        **ask.remote(),
    )
    # Sums in the order of the shards, so that they are the same to the last bit whoever finishes first.
    dataset.context.execution_options.preserve_order = True
    yield from board.rows(dataset)


def _write(plan: Plan, problem: Problem, sums: ClassEmbeddingSums) -> None:
    counts = sums.counts_S[:, None]
    phi_CK = np.where(counts > 0, sums.sums_SK / np.maximum(counts, 1), np.nan)
    seen = len(problem.seen)
    assert (counts[:seen] > 0).all(), "a seen class without training images"
    sink = io.BytesIO()
    np.savez(
        sink,
        class_names=np.array(problem.classes),
        phi_SK=phi_CK[:seen],
        oracle_UK=phi_CK[seen:],
        images=sums.counts_S,
    )
    plan.storage.write_bytes(plan.uri("embeddings", f"{problem.name}.npz"), sink.getvalue())

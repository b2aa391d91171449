"""relate: every unseen class as a combination of seen ones, and with it the embeddings of all classes.

Below a few thousand classes the solver runs in this process, where Ray would be pure overhead; beyond
(`resources.relate_tasks_from`), chunks of classes go to Ray tasks that share one prepared problem in the object store.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vgse import __version__
from vgse.config import RelateConfig, ResourcesConfig
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.embed import read_embeddings
from vgse.pipeline.export import write_class_embeddings_mat
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.relation import PreparedRelation, Relations, RelationSettings, advise, joined

if TYPE_CHECKING:
    from vgse.pipeline.board import Board

_SMALLEST_CHUNK, _LARGEST_CHUNK = 256, 1024


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    names = ("relations.parquet", "class_embeddings.npz", "class_embeddings.parquet", "class_embeddings_splits.mat")
    return [*(plan.uri(name) for name in names), plan.uri("splits")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Relates the unseen classes of every problem."""
    from vgse.pipeline.board import Board

    problems = list(plan.problems())
    total = sum(len(problem.unseen) for problem in problems)
    progress.start(total, "classes")
    frame = committed_images(plan)
    tasks_from = plan.config.resources.relate_tasks_from
    board = Board() if any(len(problem.unseen) >= tasks_from for problem in problems) else None
    largest_gap, paths = 0.0, dict[str, int]()
    for problem in problems:
        known_CD = plan.known(problem)
        unseen_UD, seen_SD = known_CD[len(problem.seen) :], known_CD[: len(problem.seen)]
        if problem.phase == "final":
            _warn(plan, problem, unseen_UD, seen_SD, progress)
        relations = solve_relations(
            unseen_UD,
            seen_SD,
            plan.config.relate,
            progress,
            plan.blocks,
            board,
            tasks_from,
        )
        embeddings_CK = _all_embeddings(plan, problem, relations)
        _write(plan, problem, relations, embeddings_CK)
        if problem.phase == "final":
            write_class_embeddings_mat(plan, problem, frame, embeddings_CK)
        largest_gap = max(largest_gap, float(np.nanmax(relations.gap_U, initial=0.0)))
        for path in relations.method_U:
            paths[path] = paths.get(path, 0) + 1
    solved = ", ".join(f"{count:,} by {path}" for path, count in sorted(paths.items()))
    progress.say(f"relate: {solved}; largest proven gap {largest_gap:.1e}")
    details = {"paths": paths, "largest_gap": largest_gap}
    return StageOutcome(total, total, unit="classes", details=details, nodes=board.nodes() if board else {})


def read_relations(plan: Plan, problem: Problem) -> np.ndarray:
    """r_US of a problem, in the order of its classes."""
    table = plan.storage.read_table(plan.problem_uri(problem, "relations.parquet"), ["r"])
    return np.stack(table["r"].to_numpy())


def read_class_embeddings(plan: Plan, problem: Problem) -> np.ndarray:
    """embeddings_CK (float32) of a problem: seen classes, then unseen ones."""
    data = plan.storage.read_bytes(plan.problem_uri(problem, "class_embeddings.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays["class_embeddings"]


def solve_relations(
    unseen_UD: np.ndarray,
    seen_SD: np.ndarray,
    relate: RelateConfig,
    progress: Progress,
    blocks: Sequence[slice] = (),
    board: Board | None = None,
    tasks_from: int = ResourcesConfig().relate_tasks_from,
) -> Relations:
    """Every unseen class related to the seen ones, in order, here or by Ray tasks; a task that dies is run again.

    Args:
        unseen_UD, seen_SD: what the classes are known by.
        relate: method and settings.
        progress: told of every class.
        blocks: the columns of each source of knowledge.
        board: counts tasks by node.
        tasks_from: fewer unseen classes than this are solved in this process.
    """
    prepared = PreparedRelation(seen_SD, relation_settings(relate), blocks)
    if len(unseen_UD) < tasks_from:
        answer = prepared(unseen_UD)
        progress.advance(len(unseen_UD))
        return answer
    parts = []
    for part in _solve_on_ray(unseen_UD, prepared, board):
        progress.advance(len(part.method_U))
        parts.append(part)
    return joined(parts)


def relation_settings(relate: RelateConfig) -> RelationSettings:
    """The relation room's settings from the configuration's."""
    return RelationSettings(
        relate.method, relate.alpha, relate.ridge, relate.neighbours, relate.eta, relate.kernel_ridge
    )


def _solve_on_ray(unseen_UD: np.ndarray, prepared: PreparedRelation, board: Board | None) -> Iterator[Relations]:
    """Chunks in order, four or more per CPU where they are large enough to pay, so that none waits for a slow one; what
    is prepared is shared."""
    import ray

    from vgse.pipeline.placement import relate_ask
    from vgse.pipeline.session import capacity, connect

    # Ray gives a task of one CPU one thread of BLAS; there is no PyTorch here to be limited, nor worth importing.
    def relate_chunk(prepared: PreparedRelation, chunk_UD: np.ndarray) -> Relations:
        relations = prepared(chunk_UD)
        if board is not None:
            board.served()
        return relations

    connect()
    shared = ray.put(prepared)
    ask = relate_ask(capacity())
    smallest = min(_SMALLEST_CHUNK, -(-len(unseen_UD) // ask.count))
    size = max(smallest, min(_LARGEST_CHUNK, -(-len(unseen_UD) // (4 * ask.count))))
    task = ray.remote(max_retries=5, scheduling_strategy="SPREAD", **ask.remote())(relate_chunk)
    pending = [task.remote(shared, unseen_UD[i : i + size]) for i in range(0, len(unseen_UD), size)]
    for reference in pending:
        yield ray.get(reference)


def _warn(plan: Plan, problem: Problem, unseen_UW: np.ndarray, seen_SW: np.ndarray, progress: Progress) -> None:
    relate = plan.config.relate
    said = advise(
        unseen_UW,
        seen_SW,
        alpha=relate.alpha,
        ridge=relate.ridge,
        seen_names=list(problem.seen),
        unseen_names=list(problem.unseen),
    )
    for sentence in said:
        progress.say(f"warning: {sentence}")


def _all_embeddings(plan: Plan, problem: Problem, relations: Relations) -> np.ndarray:
    phi_SK = read_embeddings(plan, problem).phi_SK
    return np.concatenate([phi_SK, np.asarray(relations.r_US @ phi_SK)]).astype(np.float32)


def _write(plan: Plan, problem: Problem, relations: Relations, embeddings_CK: np.ndarray) -> None:
    storage = plan.storage
    table = pa.table(
        {
            "class_name": list(problem.unseen),
            "r": list(relations.dense()),
            "objective": relations.objective_U,
            "gap": relations.gap_U,
            "method": relations.method_U,
            "alpha": np.full(len(problem.unseen), plan.config.relate.alpha),
        }
    )
    storage.write_table(plan.problem_uri(problem, "relations.parquet"), table)
    provenance = {
        "version": __version__,
        "config": plan.config.public_dict(),
        "data": plan.inputs.data,
        "split": plan.inputs.split,
        "problem": problem.name,
        "stages": plan.fingerprints,
    }
    sink = io.BytesIO()
    np.savez(
        sink,
        class_names=np.array(problem.classes),
        class_embeddings=embeddings_CK,
        is_seen=problem.seen_mask,
        provenance=np.array(json.dumps(provenance)),
    )
    storage.write_bytes(plan.problem_uri(problem, "class_embeddings.npz"), sink.getvalue())
    rows = {"class_name": list(problem.classes), "is_seen": problem.seen_mask, "embedding": list(embeddings_CK)}
    storage.write_table(plan.problem_uri(problem, "class_embeddings.parquet"), pa.table(rows))

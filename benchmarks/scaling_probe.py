"""What Ray itself costs on the cluster of RAY_ADDRESS, and how long relate takes there at 20,842 classes.

    RAY_ADDRESS=... python benchmarks/scaling_probe.py VOCABULARY        # prints one JSON object as its last line

Pipelines and tasks that do nothing, few and many of them: the slope is the cost of a task, the rest that of a start.
The first pipeline of a job is timed alone: it pays for imports and for processes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vgse.config import RelateConfig
from vgse.data.words import load_vocabulary, prepare_words
from vgse.pipeline import session
from vgse.pipeline.board import Board
from vgse.pipeline.relate import solve_relations
from vgse.pipeline.stage import Progress

FEW, MANY = 16, 144
SEEN, UNSEEN = 1000, 20_842


def nothing(block: pa.Table) -> pa.Table:
    """A task of crop that has nothing to do."""
    return pa.table({"rows": [block.num_rows]})


class Nothing:
    """A worker of encode that has nothing to do."""

    def __call__(self, block: pa.Table) -> pa.Table:
        """One shard."""
        return pa.table({"rows": [block.num_rows]})


def first_pipeline() -> float:
    """Seconds of the job's first pipeline, a board beside it as in every stage; few tasks that do nothing."""
    started = time.monotonic()
    board = Board()
    pipeline(FEW, 0)
    board.nodes()
    return time.monotonic() - started


def pipeline(tasks: int, workers: int) -> float:
    """Seconds of a pipeline of tasks (no workers) or of actors."""
    ray = session.ray
    blocks = [pa.table({"shard": [f"part-{number:05d}"]}) for number in range(tasks)]
    started = time.monotonic()
    dataset = ray.data.from_arrow(blocks)
    if workers:
        dataset = dataset.map_batches(Nothing, batch_size=1, concurrency=workers, num_cpus=1, batch_format="pyarrow")
    else:
        dataset = dataset.map_batches(nothing, batch_size=None, batch_format="pyarrow", num_cpus=1)
    assert len(list(dataset.iter_rows())) == tasks
    return time.monotonic() - started


def plain(tasks: int) -> float:
    """Seconds of plain Ray tasks, spread over the nodes."""
    ray = session.ray
    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(lambda number: number)
    started = time.monotonic()
    ray.get([task.remote(number) for number in range(tasks)])
    return time.monotonic() - started


def line(few: float, many: float) -> dict[str, float]:
    """Start and cost of a task from the times of few and many."""
    each = (many - few) / (MANY - FEW)
    return {"start_s": few - FEW * each, "task_s": each}


def relate_seconds(vocabulary: Path) -> float:
    """The product's relate on real word vectors, the second time: the solver is compiled."""
    vectors = load_vocabulary(vocabulary).vectors  # type: ignore[attr-defined]
    words_CW = np.asarray(vectors[np.random.default_rng(0).permutation(len(vectors))[: SEEN + UNSEEN]], np.float64)
    prepared = prepare_words(words_CW, np.arange(SEEN + UNSEEN) < SEEN, "centred")
    times = []
    for _ in range(2):
        started = time.monotonic()
        with Progress("relate", quiet=True) as progress:
            solve_relations(prepared[SEEN:], prepared[:SEEN], RelateConfig(), progress)
        times.append(time.monotonic() - started)
    return times[-1]


def main() -> None:
    """Measures everything once warm and prints it."""
    session.connect()
    workers = session.cpus()
    found: dict[str, Any] = {
        "first_s": first_pipeline(),
        "tasks": line(pipeline(FEW, 0), pipeline(MANY, 0)),
        "actors": line(pipeline(FEW, workers), pipeline(MANY, workers)),
    }
    plain(FEW)
    found["plain"] = line(plain(FEW), plain(MANY))
    print(json.dumps({**found, "relate_s": relate_seconds(Path(sys.argv[1])), "nodes": session.nodes()}))


if __name__ == "__main__":
    main()

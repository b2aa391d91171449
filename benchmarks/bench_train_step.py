"""The training loop against a bare PyTorch loop by processor time on one thread, without Ray.

    uv run python benchmarks/bench_train_step.py --run runs/train      # shares the run directories of bench_train.py

What `vgse cluster` adds to a step (checks, metrics, bank, schedule) shows here also on a machine with other work, which
bench_train.py needs for itself: both loops get the same rows in memory, each in a process of its own, and the processor
time of all threads of the process is counted. Cutting and Ray are left out. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from bench_train import CASES, EPOCHS, ROOT, prepared, run_of, stages

ROUNDS = 2


def rows_per_second(loop: str, run: Path, overrides: Sequence[str]) -> float:
    """Rows per second of processor time in the epochs after the first, `ours` or `bare`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit({"ours": _ours, "bare": _bare}[loop], run, tuple(overrides)).result()


def _bare(run: Path, overrides: Sequence[str]) -> float:
    from bare_loop import bare_rows_per_second

    data, clock = prepared(run, overrides), time.process_time
    return bare_rows_per_second(
        data.inputs, data.labels, data.words_SW, data.network, data.config.cluster, 1, EPOCHS, clock
    )


def _ours(run: Path, overrides: Sequence[str]) -> float:
    """As a training worker does, in a thread of its own."""
    import torch

    from vgse.clustering.batches import Batch, InMemoryBatches
    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.training import fit
    from vgse.pipeline.fit_worker import fit_settings
    from vgse.pipeline.session import keep_freed_memory, limit_threads
    from vgse.storage import Storage

    class Pixels(InMemoryBatches):
        def _batch(self, rows: np.ndarray) -> Batch:
            return Batch(torch.from_numpy(self._features_NF[rows]), torch.from_numpy(self._labels_N[rows]))

    data, marks = prepared(run, overrides), {}
    keep_freed_memory()
    limit_threads(1)
    torch.set_float32_matmul_precision("high")
    cluster = data.config.cluster.model_copy(update={"checkpoint_every": float(EPOCHS), "validate_every": 0})
    kind = InMemoryBatches if cluster.mode == "frozen" else Pixels
    source = kind(data.inputs, data.labels, cluster.batch_size, 0, 1, 0)

    def on_step(step: int, steps: int) -> None:
        marks[step] = time.process_time()

    def train() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            fit(
                data.network, source, torch.from_numpy(data.words_SW.astype(np.float32)), fit_settings(cluster, 0),
                checkpoints=Checkpoints(Storage(), scratch), on_step=on_step,
            )  # fmt: skip

    worker = threading.Thread(target=train)
    worker.start()
    worker.join()
    first, last = source.steps_per_epoch, EPOCHS * source.steps_per_epoch
    return (EPOCHS - 1) * len(data.labels) / (marks[last] - marks[first])


def main() -> None:
    """Measures and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--run", type=Path, default=ROOT / "runs/train")
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    options = parser.parse_args()
    line: dict[str, dict[str, float]] = {}
    for name in options.cases:
        case = CASES[name]
        run, overrides = run_of(name, case, options.run.resolve(), options.source.resolve(), case.sizes[0])
        stages(run, overrides, "crop", "encode")
        found = {"ours": [], "bare": []}
        for _ in range(ROUNDS):
            for loop, each in found.items():
                each.append(rows_per_second(loop, run, overrides))
        best = {loop: max(each) for loop, each in found.items()}
        line[name] = {
            "ratio": round(best["ours"] / best["bare"], 3),
            **{loop: round(each, 1) for loop, each in best.items()},
            "apart": round(max(min(each) and max(each) / min(each) - 1 for each in found.values()), 3),
        }
        print(name, found, file=sys.stderr, flush=True)
    print(json.dumps(line))


if __name__ == "__main__":
    main()

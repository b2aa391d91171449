"""The training loop against a bare PyTorch loop by processor time on one thread, without Ray.

    uv run python benchmarks/bench_train_step.py

What `vgse cluster` adds to a step (checks, metrics, bank, schedule) shows here also on a machine with other work, which
bench_train.py needs for itself: both loops get the same random rows in memory, each in a process of its own, and the
processor time of all threads of the process is counted. Cutting and Ray are left out. Both loops take turns, and the
best of their rounds counts. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from vgse.config import ClusterConfig

CLASSES, WORDS, CLUSTERS, EPOCHS = 80, 100, 150, 3


@dataclass(frozen=True)
class Case:
    """Rows an epoch, as features of an EfficientNet-Lite0 or as pixels for a backbone, and the batch size."""

    rows: int
    batch: int
    backbone: str | None = None
    size: int = 0


CASES = {
    "frozen": Case(16384, 1024),
    "finetune_tiny": Case(1280, 128, "tiny", 64),
    "finetune_resnet50": Case(256, 64, "resnet50", 32),
}


def rows_per_second(loop: str, name: str) -> float:
    """Rows per second of processor time in the epochs after the first, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, loop, name).result()


def _measured(loop: str, name: str) -> float:
    import torch

    from vgse.clustering.backbones import build_backbone
    from vgse.clustering.network import ClusterNetwork

    torch.set_num_threads(1)
    torch.manual_seed(0)
    case, random = CASES[name], np.random.default_rng(0)
    labels = random.integers(0, CLASSES, case.rows)
    words_SW = random.standard_normal((CLASSES, WORDS)).astype(np.float32)
    if case.backbone is None:
        inputs = random.standard_normal((case.rows, 1280)).astype(np.float16)
        network = ClusterNetwork(1280, CLUSTERS, CLASSES, WORDS)
    else:
        inputs = random.integers(0, 256, (case.rows, case.size, case.size, 3), np.uint8)
        backbone = build_backbone(case.backbone, input_size=case.size)
        network = ClusterNetwork(backbone.spec.feature_dim, CLUSTERS, CLASSES, WORDS, backbone)
    cluster = ClusterConfig(batch_size=case.batch, bank_size=2048, epochs=EPOCHS, checkpoint_every=EPOCHS)
    return (_ours if loop == "ours" else _bare)(inputs, labels, words_SW, network, cluster)


def _bare(inputs: np.ndarray, labels: np.ndarray, words_SW: np.ndarray, network: Any, cluster: ClusterConfig) -> float:
    from bare_loop import bare_rows_per_second

    return bare_rows_per_second(inputs, labels, words_SW, network, cluster, 1, EPOCHS, time.process_time)


def _ours(inputs: np.ndarray, labels: np.ndarray, words_SW: np.ndarray, network: Any, cluster: ClusterConfig) -> float:
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

    keep_freed_memory()
    limit_threads(1)
    torch.set_float32_matmul_precision("high")
    kind = InMemoryBatches if network.backbone is None else Pixels
    # As `FitTask.source` has it on a CPU: features are gathered in line, pixels come one batch ahead.
    source = kind(inputs, labels, cluster.batch_size, 0, 1, 0, ahead=network.backbone is not None)
    marks: dict[int, float] = {}

    def on_step(step: int, steps: int) -> None:
        marks[step] = time.process_time()

    def train() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            fit(
                network, source, torch.from_numpy(words_SW), fit_settings(cluster, 0),
                checkpoints=Checkpoints(Storage(), scratch), on_step=on_step,
            )  # fmt: skip

    worker = threading.Thread(target=train)
    worker.start()
    worker.join()
    first, last = source.steps_per_epoch, EPOCHS * source.steps_per_epoch
    return (EPOCHS - 1) * len(labels) / (marks[last] - marks[first])


def main() -> None:
    """Measures and prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    line: dict[str, float] = {}
    for name in options.cases:
        found: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(options.rounds):
            for loop, each in found.items():
                each.append(round(rows_per_second(loop, name), 1))
        print(name, found, file=sys.stderr, flush=True)
        line[f"{name}_ratio"] = round(max(found["ours"]) / max(found["bare"]), 3)
    print(json.dumps(line))


if __name__ == "__main__":
    main()

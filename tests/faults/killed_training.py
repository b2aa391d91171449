"""Training in processes of its own that can be killed at any step: what the tests of this folder start and watch."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

import numpy as np

N, F, K, S, W = 230, 12, 10, 5, 6
BATCH, EPOCHS, STEPS = 16, 3, 15
# In epochs and in steps.
EVERY, INTERVAL = 0.2, 3


@dataclass(frozen=True)
class Attempt:
    """One start of a group: its size, and which rank is killed after which step (None: it may finish)."""

    world_size: int
    killed_rank: int = 0
    killed_after: int | None = None


def start(attempt: Attempt, folder: Path, number: int) -> list[int | None]:
    """Runs one group until it finishes or loses a rank; the others are ended then. Exit codes by rank."""
    # Forking from a process that has torch loaded (and what its optimisers load) spares seconds a start.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vgse.clustering.training", "vgse.storage", "torch._dynamo"])
    meeting = (folder / f"rendezvous-{number}").as_uri()
    processes = [
        context.Process(target=_train, args=(rank, attempt, str(folder), number, meeting))
        for rank in range(attempt.world_size)
    ]
    for process in processes:
        process.start()
    if attempt.killed_after is not None:
        processes[attempt.killed_rank].join(30)
        for process in processes:
            process.kill()
    for process in processes:
        process.join(30)
    return [process.exitcode for process in processes]


def steps_done(folder: Path, number: int) -> dict[int, list[list[int]]]:
    """By step, the rows that every rank trained on in attempt `number`, as far as it got."""
    done: dict[int, list[list[int]]] = {}
    for path in sorted(folder.glob(f"rows-{number}-*.jsonl")):
        for line in path.read_text().splitlines():
            step, rows = json.loads(line)
            done.setdefault(step, []).append(rows)
    return done


def _train(rank: int, attempt: Attempt, folder: str, number: int, meeting: str) -> None:
    import torch
    import torch.distributed as dist

    from vgse.clustering.batches import Batch, InMemoryBatches
    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.network import ClusterNetwork
    from vgse.clustering.training import FitSettings, fit
    from vgse.storage import Storage

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=attempt.world_size, timeout=timedelta(seconds=20)
    )
    rng = np.random.default_rng(0)
    labels = rng.integers(0, S, N)
    features = (3 * rng.normal(size=(S, F))[labels] + rng.normal(size=(N, F))).astype(np.float16)
    words = torch.tensor(rng.normal(size=(S, W)), dtype=torch.float32)
    trained: list[list[int]] = []

    class Recorded(InMemoryBatches):
        def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
            rows = islice(self.row_numbers(epoch), first_step, None)
            for batch, here in zip(super().epoch(epoch, first_step), rows, strict=True):
                trained.append(here.tolist())
                yield batch

    def on_step(step: int, steps: int) -> None:
        with open(f"{folder}/rows-{number}-{rank}.jsonl", "a") as file:
            file.write(json.dumps([step, trained[-1]]) + "\n")
        if step == attempt.killed_after and rank == attempt.killed_rank:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = FitSettings(
        epochs=EPOCHS, global_batch=BATCH, bank_size=100, neighbours=3, learning_rate=1e-2, checkpoint_every=EVERY
    )
    source = Recorded(features, labels, BATCH, rank, attempt.world_size, 0)
    checkpoints = Checkpoints(Storage(), f"{folder}/fit")
    fit(ClusterNetwork(F, K, S, W, seed=7), source, words, settings, checkpoints=checkpoints, on_step=on_step)
    dist.destroy_process_group()

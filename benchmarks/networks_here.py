"""Frozen networks trained in processes of one thread each, without Ray: many small ones, as ablations need them.

What is trained and embedded is what `vgse cluster` and `vgse embed` make with one worker and without validation_fit, by
the same functions; starting these for every setting would cost more than the training.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from line_ups import plan_of


def train_here(folder: Path, always: Sequence[str], settings: Mapping[str, Sequence[str]]) -> None:
    """Seen embeddings of every class split under each of the settings, kept in the run directory by its name."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(_train, folder, (*always, *each), folder / name)
            for name, each in settings.items()
            if not (folder / name).exists()
        ]
        for each in work:
            each.result()


def _train(folder: Path, overrides: Sequence[str], kept: Path) -> None:
    import torch

    from vgse.pipeline.accounts import committed_images

    torch.set_num_threads(1)
    plan = plan_of(folder, overrides)
    frame = committed_images(plan)
    partial = kept.with_name(f"{kept.name}.partial")
    partial.mkdir(exist_ok=True)
    for each in plan.rounds():
        network = _network(plan, frame, each.final)
        for problem in each.problems:
            phi_SK = _seen_embeddings(plan, frame, problem, network)
            oracle_UK = np.full((len(problem.unseen), phi_SK.shape[1]), np.nan)
            np.savez(partial / f"{problem.name}.npz", phi_SK=phi_SK, oracle_UK=oracle_UK)
    partial.rename(kept)


def _rows(plan: Any, frame: Any, problem: Any) -> tuple[np.ndarray, np.ndarray]:
    """Patch features (N * T, F) of a problem's training images, and the images' seen-class indices."""
    from vgse.pipeline.features import patch_features, training_rows

    chosen = training_rows(frame, problem, plan)
    labels = frame.class_name[chosen].map({name: i for i, name in enumerate(problem.seen)})
    return patch_features(plan, frame, chosen).read_all(), labels.to_numpy(np.int64)


def _network(plan: Any, frame: Any, problem: Any) -> Any:
    import torch

    from vgse.clustering.batches import InMemoryBatches
    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.training import fit
    from vgse.data.words import prepare_words
    from vgse.pipeline.fit_worker import fit_settings
    from vgse.pipeline.networks import NetworkRecipe
    from vgse.storage import Storage

    features, labels_I = _rows(plan, frame, problem)
    words_SW = prepare_words(plan.words(problem.seen), np.ones(len(problem.seen), bool), "centred")
    recipe, cluster = NetworkRecipe.of(plan.config, len(problem.seen), words_SW.shape[1]), plan.config.cluster
    labels = np.repeat(labels_I, plan.config.crop.patches)
    source = InMemoryBatches(features, labels, cluster.batch_size, 0, 1, recipe.seed)
    settings = replace(fit_settings(cluster, recipe.seed), checkpoint_every=float(cluster.epochs), validate_every=0)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(Storage(), scratch)
        words = torch.from_numpy(np.asarray(words_SW, np.float32))
        return fit(recipe.build(plan.storage), source, words, settings, checkpoints=checkpoints)


def _seen_embeddings(plan: Any, frame: Any, problem: Any, network: Any) -> np.ndarray:
    import torch

    from vgse.clustering.embedding import ClassEmbeddingSums

    features, labels_I = _rows(plan, frame, problem)
    sums, patches = ClassEmbeddingSums(len(problem.seen), network.num_clusters), plan.config.crop.patches
    for start in range(0, len(labels_I), 1000):
        part = np.asarray(features[start * patches : (start + 1000) * patches], np.float32)
        a_BK = network.assign(torch.from_numpy(part)).double().numpy()
        sums.add(a_BK.reshape(-1, patches, a_BK.shape[1]), labels_I[start : start + 1000])
    return sums.result()[0]

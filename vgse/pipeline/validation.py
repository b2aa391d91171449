"""Validation while training: what a choice problem's network is worth on its val classes, every few epochs.

The figures are those of the evaluation in small: seen embeddings from a few training images a class, the run's own
relation to the val classes, ESZSL's grid on a few images a class. They show how training goes and rank checkpoints;
with fewer images and the best of the grid they are no substitute for the evaluation. Only training images are met:
held-out images of any class, and the unseen classes, are out of reach, which is why a final fit is not validated.

Images are judged on whole-image features alone: the patch means that the evaluation joins to them double the width, and
the decomposition costs eight times as much. On CIFAR-100 (64 classes, 110,592 patches, frozen, one CPU) a look takes
1.4 s the first time and 0.9 s later, an epoch 4.3 s: 5 % of 15 epochs with the default of every fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.errors import DataError
from vgse.pipeline.features import PatchFeatures, episode_rows, patch_features
from vgse.pipeline.image_features import image_features
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.validation_pixels import PixelImages, encoded_by_all
from vgse.storage import Storage
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.settings import ZslSettings

# Patches per forward pass of the heads.
_PATCHES = 8192


@dataclass(frozen=True)
class ValidationTask:
    """What workers need to validate one choice problem's network.

    `r_US` relates the problem's unseen (val) classes to its seen ones. In frozen mode `patches` are features of the
    images that seen embeddings are made of, with their classes `labels_I`, and `episode` holds the images that are
    judged; in finetune mode `pixels` says where both are read from.
    """

    class_names: tuple[str, ...]
    r_US: np.ndarray
    patches: PatchFeatures | None = None
    labels_I: np.ndarray | None = None
    episode: Episode | None = None
    pixels: PixelImages | None = None

    @property
    def seen_C(self) -> np.ndarray:
        """Bool (C,), true for seen classes."""
        return np.arange(len(self.class_names)) < self.r_US.shape[1]


def validation_task(plan: Plan, frame: pd.DataFrame, problem: Problem) -> ValidationTask | None:
    """The validation of a problem's fit, None where there is none: of final fits, and where it is switched off."""
    if problem.phase == "final" or not plan.config.cluster.validate_every:
        return None
    row_of = {name: i for i, name in enumerate(problem.classes)}
    labels = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
    most = plan.config.cluster.validation_images
    train, test_seen, test_unseen = (_first(frame, rows, most) for rows in episode_rows(frame, problem, plan))
    r_US = problem_relation(plan, problem)
    if plan.config.cluster.mode == "finetune":
        pixels = PixelImages.of(frame, labels, (train, test_seen, test_unseen), plan)
        return ValidationTask(problem.classes, r_US, pixels=pixels)
    kind = "patches" if plan.config.evaluate.features == "patches" else "whole"
    sets = [
        ImageSet(image_features(plan, frame, plan.uri("features", "images"), rows, kind), labels[rows])
        for rows in (train, test_seen, test_unseen)
    ]
    episode = Episode(problem.classes, problem.seen_mask, *sets)
    return ValidationTask(problem.classes, r_US, patch_features(plan, frame, train), labels[train], episode)


def _first(frame: pd.DataFrame, chosen: np.ndarray, most: int) -> np.ndarray:
    """Of the images `chosen` (N,) bool, the first `most` of each class by rank."""
    mine = frame[chosen].sort_values("rank")
    first = mine.index[mine.groupby("class_name").cumcount() < most]
    return frame.index.isin(first)


def problem_relation(plan: Plan, problem: Problem) -> np.ndarray:
    """r_US of a problem, dense, found here and now."""
    from vgse.pipeline.relate import relation_settings  # which imports the cluster stage
    from vgse.relation import PreparedRelation

    known_CD, seen = plan.known(problem), len(problem.seen)
    related = PreparedRelation(known_CD[:seen], relation_settings(plan.config.relate), plan.blocks)
    return related(known_CD[seen:]).dense()


class Validation:
    """The hook of the training loop: a network's `val_T1` and `val_H`. All ranks call it together.

    Args:
        task: what to validate on.
        storage: where pixels are read from.
        threads: CPUs of this worker.

    Attributes:
        prepared: the judged images with all that does not depend on the network, once there was a look at them in
            frozen mode; another fit on the same images may begin with it.
    """

    def __init__(self, task: ValidationTask, storage: Storage, threads: int = 1) -> None:
        self._task, self._storage, self._threads = task, storage, threads
        self._settings = ZslSettings(models=("eszsl",))
        self.prepared: PreparedEpisode | None = None

    def __call__(self, network: Any) -> dict[str, float]:
        """Fractions in 0..1, the same on all ranks; none where the embeddings tell no classes apart."""
        import torch

        from vgse.clustering.collectives import all_sum, rank

        if self._task.pixels is not None:
            features_NF, sums = encoded_by_all(self._task.pixels, network, self._storage, self._threads)
        else:
            features_NF, sums = None, self._frozen_sums(network)
        device = next(network.parameters()).device
        total_SK1 = np.concatenate([sums.sums_SK, sums.counts_S[:, None]], axis=1)
        total_SK1 = all_sum(torch.from_numpy(total_SK1).to(device)).cpu().numpy()
        found = [0.0, 0.0]
        if rank() == 0:
            phi_SK = total_SK1[:, :-1] / total_SK1[:, -1:]
            found = self._judged(np.concatenate([phi_SK, self._task.r_US @ phi_SK]), features_NF)
        # Decided on one rank, so that all agree to the last digit on which checkpoint is the best.
        T1, H = all_sum(torch.tensor(found, dtype=torch.float64, device=device)).tolist()
        return {} if math.isnan(H) else {"val_T1": T1, "val_H": H}

    def _frozen_sums(self, network: Any) -> ClassEmbeddingSums:
        """This rank's share of the images."""
        import torch

        from vgse.clustering.collectives import rank, world_size

        patches, labels_I = self._task.patches, self._task.labels_I
        assert patches is not None
        assert labels_I is not None
        device = next(network.parameters()).device
        sums = ClassEmbeddingSums(self._task.r_US.shape[1], network.num_clusters)
        per_image = len(patches) // len(labels_I)
        first, last = (len(labels_I) * r // world_size() for r in (rank(), rank() + 1))
        step = max(1, _PATCHES // per_image)
        for start in range(first, last, step):
            stop = min(last, start + step)
            rows = np.arange(start * per_image, stop * per_image)
            features = torch.from_numpy(np.asarray(patches[rows], np.float32)).to(device)
            with torch.inference_mode():
                a_BK = network.heads(features).a_BK.double().cpu().numpy()
            sums.add(a_BK.reshape(stop - start, per_image, -1), labels_I[start:stop])
        return sums

    def _judged(self, embeddings_CK: np.ndarray, features_NF: np.ndarray | None) -> list[float]:
        """T1 and H, NaN where no figure can be had."""
        from vgse.zsl.choosing import try_grid
        from vgse.zsl.models import Eszsl
        from vgse.zsl.prepared import scaled_embeddings

        try:
            if features_NF is not None or self.prepared is None:
                self.prepared = PreparedEpisode(self._episode(features_NF), self._settings)
            centre, match = self._settings.centre_embeddings, self._settings.match_lengths
            scaled_CK = scaled_embeddings(embeddings_CK, self._task.seen_C, centre, match)
            model = Eszsl()
            tried = try_grid(model, scaled_CK, self.prepared, model.grid(self._settings))
        except DataError:
            # Such as embeddings that are all the same after a first epoch: no reason to end the training.
            return [math.nan, math.nan]
        return [max(tried.T1.values()), max(tried.H.values())]

    def _episode(self, features_NF: np.ndarray | None) -> Episode:
        if features_NF is None:
            assert self._task.episode is not None
            return self._task.episode
        assert self._task.pixels is not None
        sets = [
            ImageSet(features_NF[rows], self._task.pixels.labels_N[rows]) for rows in self._task.pixels.rows_of_parts()
        ]
        return Episode(self._task.class_names, self._task.seen_C, *sets)

"""What every arm shares: one pass over an episode's training images, one decomposition of their features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np

from vgse.errors import DataError
from vgse.zsl.episode import Episode
from vgse.zsl.eszsl import EszslStatistics, FeatureSpectrum
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.settings import ZslSettings

Part = Literal["test_seen", "test_unseen", "train"]
# Mapped features of a part are kept up to so many values (512 MB of float32); larger ones are mapped again each time.
_KEPT_VALUES = 2**27


def feature_statistics(episode: Episode, settings: ZslSettings) -> EszslStatistics:
    """Statistics of the training images, not centred; parts of the images may be counted apart and merged."""
    statistics = EszslStatistics(episode.feature_dim, int(episode.seen_C.sum()))
    plain = FeatureMap(settings.l2_features)
    labels_N = episode.seen_positions(episode.train.labels_N)
    for rows in chunks(len(episode.train), settings.chunk):
        statistics.add(plain(episode.train.features_NF[rows]), labels_N[rows])
    return statistics


class PreparedEpisode:
    """An episode with all that does not depend on the class embeddings.

    Args:
        episode: the problem.
        settings: of the evaluation.
        statistics: of the training images if they were made elsewhere, as `feature_statistics` makes them.
    """

    def __init__(self, episode: Episode, settings: ZslSettings, statistics: EszslStatistics | None = None) -> None:
        self.episode, self.settings = episode, settings
        statistics = statistics or feature_statistics(episode, settings)
        if statistics.images != len(episode.train):
            raise ValueError(
                f"statistics of {statistics.images} images, but the episode trains on {len(episode.train)}"
            )
        self._kept: dict[str, list[np.ndarray]] = {}
        mean_F = statistics.mean() if settings.centre_features else None
        self.feature_map = FeatureMap(settings.l2_features, mean_F)
        self.spectrum = FeatureSpectrum.of(statistics.centred() if settings.centre_features else statistics)

    def mapped(self, part: Part) -> Iterator[np.ndarray]:
        """Mapped features (B, F) float32 of one part, in chunks; kept in memory between calls if they are small."""
        if part not in self._kept:
            features_NF = self.calibration_features if part == "train" else getattr(self.episode, part).features_NF
            slices = chunks(len(features_NF), self.settings.chunk)
            if features_NF.size > _KEPT_VALUES:
                return (self.feature_map(features_NF[rows]) for rows in slices)
            self._kept[part] = [self.feature_map(features_NF[rows]) for rows in slices]
        return iter(self._kept[part])

    @cached_property
    def calibration_features(self) -> np.ndarray:
        """Features of training images (at most `calibration_images`, drawn evenly) that give scores their unit."""
        count, most = len(self.episode.train), self.settings.calibration_images
        rows = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
        return self.episode.train.features_NF[rows]

    @cached_property
    def whitening_FP(self) -> np.ndarray:
        """Projection (F, P) on leading principal directions, scaled towards equal variance, rows of about length 1."""
        dimensions = min(self.settings.sje.dimensions, self.episode.feature_dim)
        values_P = self.spectrum.values_F[-dimensions:]
        ridge = self.settings.sje.whitening * self.spectrum.values_F.mean()
        basis_FP = self.spectrum.vectors_FF[:, -dimensions:] / np.sqrt(values_P + ridge)
        scale = np.sqrt(len(self.episode.train) / (values_P / (values_P + ridge)).sum())
        return (basis_FP * scale).astype(np.float32)

    @cached_property
    def whitened_train_NP(self) -> np.ndarray:
        """Training images under `whitening_FP`, float32."""
        train = self.episode.train
        out_NP = np.empty((len(train), self.whitening_FP.shape[1]), np.float32)
        for rows in chunks(len(train), self.settings.chunk):
            out_NP[rows] = self.feature_map(train.features_NF[rows]) @ self.whitening_FP
        return out_NP


def scaled_embeddings(embeddings_CK: np.ndarray, seen_C: np.ndarray, centre: bool) -> np.ndarray:
    """Class embeddings with one scale for all: seen rows have length 1 on average. float64.

    Lengths differ between classes on purpose: normalising each class apart costs accuracy.

    Args:
        embeddings_CK: class embeddings.
        seen_C: which classes are seen; only they decide mean and scale.
        centre: subtract the mean of the seen rows first.

    Raises:
        DataError: not finite, or all seen classes have the same embedding.
    """
    out_CK = np.asarray(embeddings_CK, np.float64)
    if not np.isfinite(out_CK).all():
        raise DataError(
            f"class embeddings of {int((~np.isfinite(out_CK).all(axis=1)).sum())} classes are not finite",
            "look for broken features or word vectors",
        )
    mean_K = out_CK[seen_C].mean(axis=0)
    if np.allclose(out_CK[seen_C], mean_K, rtol=1e-9, atol=0.0):
        raise DataError("all seen classes have the same embedding", "nothing can be learned from such embeddings")
    if centre:
        out_CK = out_CK - mean_K
    return out_CK / np.linalg.norm(out_CK[seen_C], axis=1).mean()

"""What every arm shares: one pass over an episode's training images, one decomposition of their features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse

from vgse.errors import DataError
from vgse.zsl.episode import Episode
from vgse.zsl.eszsl import EszslStatistics, FeatureSpectrum
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.prototype import WithinSpectrum
from vgse.zsl.settings import ZslSettings

Part = Literal["test_seen", "test_unseen", "train"]
# Mapped features of a part are kept up to so many values (256 MB of float32); larger ones are mapped again each time.
_KEPT_VALUES = 2**26


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
        self._whitened: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._queries: dict[tuple[Part, float], list[np.ndarray]] = {}
        mean_F = statistics.mean() if settings.centre_features else None
        self.feature_map = FeatureMap(settings.l2_features, mean_F)
        self.statistics = statistics.centred() if settings.centre_features else statistics
        # What is dear is made here and not by the first arm: arms may be judged in processes of their own, each with a
        # copy of this object.
        if {"eszsl", "sje"} & set(settings.models):
            self.spectrum  # noqa: B018
        if "sje" in settings.models:
            self.whitened_train_NP  # noqa: B018
        if "prototype" in settings.models:
            self.whitened_lengths  # noqa: B018

    def __getstate__(self) -> dict[str, Any]:
        """Without what is large and quickly made anew from the images."""
        state = {name: value for name, value in self.__dict__.items() if name != "calibration_features"}
        return state | {"_kept": {}, "_queries": {}}

    @cached_property
    def spectrum(self) -> FeatureSpectrum:
        """Of all training images, for ESZSL and SJE."""
        return FeatureSpectrum.of(self.statistics)

    @cached_property
    def within(self) -> WithinSpectrum:
        """Of training images around their class's mean, for the whitened-prototype classifier."""
        return WithinSpectrum.of(self.statistics)

    def prototypes(self) -> np.ndarray:
        """Mean mapped feature of every class's images, (C, F): of seen classes over the training images, of unseen ones
        over the test images. For diagnosis only; no model sees the latter."""
        episode, statistics = self.episode, self.statistics
        out_CF = np.zeros((len(episode.seen_C), episode.feature_dim))
        out_CF[episode.seen_C] = statistics.sums_SF / statistics.count_S[:, None]
        labels_N, start = episode.test_unseen.labels_N, 0
        for x_BF in self.mapped("test_unseen"):
            here, rows = np.unique(labels_N[start : start + len(x_BF)], return_inverse=True)
            of_class_CB = sparse.csr_array((np.ones(len(x_BF)), (rows, np.arange(len(x_BF)))))
            out_CF[here] += of_class_CB @ x_BF
            start += len(x_BF)
        count_C = np.bincount(labels_N, minlength=len(out_CF))
        out_CF[~episode.seen_C] /= count_C[~episode.seen_C, None]
        return out_CF

    def mapped(self, part: Part) -> Iterator[np.ndarray]:
        """Mapped features (B, F) float32 of one part, in chunks; kept in memory between calls if they are small."""
        if part not in self._kept:
            if self._features(part).size > _KEPT_VALUES:
                return self._mapped_anew(part)
            self._kept[part] = list(self._mapped_anew(part))
        return iter(self._kept[part])

    def _mapped_anew(self, part: Part) -> Iterator[np.ndarray]:
        features_NF = self._features(part)
        return (self.feature_map(features_NF[rows]) for rows in chunks(len(features_NF), self.settings.chunk))

    def _features(self, part: Part) -> np.ndarray:
        return self.calibration_features if part == "train" else getattr(self.episode, part).features_NF

    def whitened(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        """`WithinSpectrum.whitened`; kept where it is small (S < F)."""
        if shrinkage in self._whitened:
            return self._whitened[shrinkage]
        sides = self.within.whitened(shrinkage)
        if self.statistics.num_classes < self.statistics.feature_dim:
            self._whitened[shrinkage] = sides
        return sides

    def unit_queries(self, shrinkage: float, part: Part) -> Iterator[np.ndarray]:
        """Whitened images M x / ||M x|| of one part as products with prototypes need them (B, R) float32, in chunks.

        Every arm asks for the same, so they are kept while they are small.
        """
        if (part, shrinkage) in self._queries:
            return iter(self._queries[part, shrinkage])
        made = self._made_queries(shrinkage, part)
        kept = sum(q_BR.size for queries in self._queries.values() for q_BR in queries)
        width = self.whitened(shrinkage)[0].shape[1]
        if kept + len(self._features(part)) * width > _KEPT_VALUES:
            return made
        self._queries[part, shrinkage] = list(made)
        return iter(self._queries[part, shrinkage])

    def _made_queries(self, shrinkage: float, part: Part) -> Iterator[np.ndarray]:
        left_FR, start = self.whitened(shrinkage)[0], 0
        lengths_N = self.whitened_lengths[part][:, self.settings.prototype.shrinkages.index(shrinkage)]
        for x_BF in self.mapped(part):
            yield x_BF @ left_FR / lengths_N[start : start + len(x_BF), None]
            start += len(x_BF)

    @cached_property
    def whitened_lengths(self) -> dict[Part, np.ndarray]:
        """||M x|| of every part's images for every shrinkage of the settings (N, L), one product for all."""
        shrinkages, parts = self.settings.prototype.shrinkages, get_args(Part)
        return {
            part: np.concatenate([self.within.lengths(x_BF, shrinkages) for x_BF in self._mapped_anew(part)])
            for part in parts
        }

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

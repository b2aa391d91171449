"""What every arm shares: one pass over an episode's training images, and what the models make of them alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse

from vgse.errors import DataError
from vgse.zsl.episode import Episode
from vgse.zsl.eszsl import EszslStatistics, ridge_classifiers
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.prototype import WithinSpectrum
from vgse.zsl.settings import ZslSettings
from vgse.zsl.whitening import principal_directions

Part = Literal["test_seen", "test_unseen", "train"]
# Mapped features of a part are kept up to so many values (256 MB of float32); larger ones are mapped again each time.
_KEPT_VALUES = 2**26
# Unseen embeddings shorter than this share of the seen ones are rounding error.
_NO_LENGTH = 1e-6


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
        self._classifiers: dict[float, np.ndarray] = {}
        self._queries: dict[Hashable, list[np.ndarray]] = {}
        mean_F = statistics.mean() if settings.centre_features else None
        self.feature_map = FeatureMap(settings.l2_features, mean_F)
        self.statistics = statistics.centred() if settings.centre_features else statistics
        # What is dear is made here and not by the first arm: arms may be judged in processes of their own, each with a
        # copy of this object.
        if "eszsl" in settings.models:
            for gamma in settings.gammas:
                self.classifiers(gamma)
        if "sje" in settings.models:
            self.whitened_train_NP  # noqa: B018
        if "prototype" in settings.models:
            self.whitened_lengths  # noqa: B018

    def __getstate__(self) -> dict[str, Any]:
        """Without what is large and quickly made anew from the images."""
        state = {name: value for name, value in self.__dict__.items() if name != "calibration_features"}
        return state | {"_kept": {}, "_queries": {}}

    def classifiers(self, gamma: float) -> np.ndarray:
        """`ridge_classifiers` of all training images, for ESZSL: (F, S) float32; kept while all of them are small."""
        if gamma in self._classifiers:
            return self._classifiers[gamma]
        found_FS = ridge_classifiers(self.statistics, gamma).astype(np.float32)
        if found_FS.size * len(self.settings.gammas) <= _KEPT_VALUES:
            self._classifiers[gamma] = found_FS
        return found_FS

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

    def class_queries(self, gamma: float, mixing_SR: np.ndarray, part: Part) -> Iterator[np.ndarray]:
        """ESZSL's view of one part's images, x A mixed by an arm's embeddings: (B, R) float32, in chunks.

        Args:
            gamma: of the ridge classifiers A.
            mixing_SR: `EmbeddingFactors.left_SR` of the arm.
            part: whose images.
        """
        mixing_SR, classifiers_FS = mixing_SR.astype(np.float32), self.classifiers(gamma)
        shared = self._shared_queries(
            ("classes", gamma, part), part, len(mixing_SR), lambda: (x @ classifiers_FS for x in self.mapped(part))
        )
        if shared is not None:
            return (q_BS @ mixing_SR for q_BS in shared)
        left_FR = classifiers_FS @ mixing_SR
        return (x_BF @ left_FR for x_BF in self.mapped(part))

    def unit_queries(self, shrinkage: float, part: Part) -> Iterator[np.ndarray]:
        """Whitened images M x / ||M x|| of one part as products with prototypes need them (B, R) float32, in chunks."""
        width = self.whitened(shrinkage)[0].shape[1]
        shared = self._shared_queries(("unit", shrinkage, part), part, width, lambda: self._units(shrinkage, part))
        return self._units(shrinkage, part) if shared is None else shared

    def _shared_queries(
        self, key: Hashable, part: Part, width: int, made: Callable[[], Iterator[np.ndarray]]
    ) -> Iterator[np.ndarray] | None:
        """What every arm asks for alike, kept while it is small; None where it is not."""
        if key not in self._queries:
            kept = sum(q_BR.size for queries in self._queries.values() for q_BR in queries)
            if kept + len(self._features(part)) * width > _KEPT_VALUES:
                return None
            self._queries[key] = list(made())
        return iter(self._queries[key])

    def _units(self, shrinkage: float, part: Part) -> Iterator[np.ndarray]:
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
        return principal_directions(self.statistics, self.settings.sje.dimensions, self.settings.sje.whitening)

    @cached_property
    def whitened_train_NP(self) -> np.ndarray:
        """Training images under `whitening_FP`, float32."""
        train = self.episode.train
        out_NP = np.empty((len(train), self.whitening_FP.shape[1]), np.float32)
        for rows in chunks(len(train), self.settings.chunk):
            out_NP[rows] = self.feature_map(train.features_NF[rows]) @ self.whitening_FP
        return out_NP


def scaled_embeddings(
    embeddings_CK: np.ndarray, seen_C: np.ndarray, centre: bool, match_lengths: bool = False
) -> np.ndarray:
    """Class embeddings with one scale for all: seen rows have length 1 on average. float64.

    Lengths differ between classes on purpose: normalising each class apart costs accuracy.

    Args:
        embeddings_CK: class embeddings.
        seen_C: which classes are seen; only they decide mean and scale.
        centre: subtract the mean of the seen rows first.
        match_lengths: one scale for the unseen rows by themselves, so that they too have length 1 on average.

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
    length_C = np.linalg.norm(out_CK, axis=1)
    out_CK = out_CK / length_C[seen_C].mean()
    unseen = length_C[~seen_C].mean() / length_C[seen_C].mean()
    # Unseen rows that all are the seen mean have no length to match.
    if match_lengths and unseen > _NO_LENGTH:
        out_CK[~seen_C] /= unseen
    return out_CK

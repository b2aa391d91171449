"""ESZSL in closed form from accumulated statistics: exact for any number of images.

Romera-Paredes and Torr, "An embarrassingly simple approach to zero-shot learning" (ICML 2015), equation 5, with
images in rows: V = (X^T X + gamma I)^-1 X^T Y S (S^T S + lambda I)^-1, Y (N, S) in {-1, 1}, S the seen embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg, sparse

from vgse.errors import DataError


class EszslStatistics:
    """All that ESZSL needs of the training images, float64: X^T X (F, F), feature sums (S, F) and counts (S,) by class.

    Statistics of parts of the images, from wherever they were made, `merge` into those of the whole.

    Args:
        feature_dim: F.
        num_classes: seen classes S.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        self.gram_FF = np.zeros((feature_dim, feature_dim))
        self.sums_SF = np.zeros((num_classes, feature_dim))
        self.count_S = np.zeros(num_classes, np.int64)

    @property
    def feature_dim(self) -> int:
        """F."""
        return self.gram_FF.shape[0]

    @property
    def num_classes(self) -> int:
        """S."""
        return len(self.count_S)

    @property
    def images(self) -> int:
        """Images taken in so far, N."""
        return int(self.count_S.sum())

    def add(self, features_BF: np.ndarray, labels_B: np.ndarray) -> None:
        """Takes in images with features (B, F) of seen classes `labels_B` (rows of the seen embeddings).

        Raises:
            DataError: a feature is not finite.
            ValueError: shapes that do not fit, or a label outside the classes.
        """
        x_BF = np.asarray(features_BF, np.float64)
        if x_BF.ndim != 2 or x_BF.shape[1] != self.feature_dim or labels_B.shape != (len(x_BF),):
            raise ValueError(f"features {x_BF.shape} and labels {labels_B.shape} do not fit F = {self.feature_dim}")
        if len(labels_B) == 0:
            return
        if labels_B.min() < 0 or labels_B.max() >= self.num_classes:
            raise ValueError(f"labels reach outside the {self.num_classes} seen classes")
        one_hot_SB = sparse.csr_matrix(
            (np.ones(len(labels_B)), (labels_B, np.arange(len(labels_B)))), (self.num_classes, len(labels_B))
        )
        sums_SF = one_hot_SB @ x_BF
        if not np.isfinite(sums_SF).all():
            raise DataError(
                f"features of {int((~np.isfinite(x_BF).all(axis=1)).sum())} training images are not finite",
                "encode these images again, in a wider number format if they overflow",
            )
        self.gram_FF += x_BF.T @ x_BF
        self.sums_SF += sums_SF
        self.count_S += np.bincount(labels_B, minlength=self.num_classes)

    def merge(self, other: EszslStatistics) -> None:
        """Adds the statistics of other images of the same classes."""
        if other.sums_SF.shape != self.sums_SF.shape:
            raise ValueError(f"statistics {other.sums_SF.shape} do not merge into {self.sums_SF.shape}")
        self.gram_FF += other.gram_FF
        self.sums_SF += other.sums_SF
        self.count_S += other.count_S

    def mean(self) -> np.ndarray:
        """Mean feature (F,)."""
        return self.sums_SF.sum(axis=0) / max(1, self.images)

    def centred(self) -> EszslStatistics:
        """The statistics of the same images with the mean subtracted from every feature row."""
        mean_F, out = self.mean(), EszslStatistics(self.feature_dim, self.num_classes)
        out.gram_FF = self.gram_FF - self.images * np.outer(mean_F, mean_F)
        out.sums_SF = self.sums_SF - self.count_S[:, None] * mean_F
        out.count_S = self.count_S.copy()
        return out


@dataclass(frozen=True)
class FeatureSpectrum:
    """Statistics with X^T X = Q diag(d) Q^T, computed once and shared by every class embedding that is judged.

    Attributes:
        statistics: of the training images.
        values_F: d, ascending, not negative.
        vectors_FF: Q, one eigenvector per column.
    """

    statistics: EszslStatistics
    values_F: np.ndarray
    vectors_FF: np.ndarray

    @classmethod
    def of(cls, statistics: EszslStatistics) -> FeatureSpectrum:
        """Decomposes X^T X.

        Raises:
            DataError: every feature is zero, so there is nothing to learn from.
        """
        values_F, vectors_FF = linalg.eigh(statistics.gram_FF, driver="evd")
        if not values_F[-1] > 0:
            raise DataError("the features of all training images are the same", "check the backbone and its weights")
        return cls(statistics, np.maximum(values_F, 0.0), vectors_FF)


class EszslFactors:
    """V = left(gamma) right(lambda)^T for any gamma and lambda, after one decomposition per side.

    gamma is given in units of trace(X^T X) / F and lambda in units of trace(S^T S) / K, so that one grid serves every
    backbone, number of images and scale of the embeddings.

    Args:
        spectrum: of the training images.
        embeddings_SK: class embeddings of the seen classes, in the order of the statistics' classes.
    """

    def __init__(self, spectrum: FeatureSpectrum, embeddings_SK: np.ndarray) -> None:
        statistics = spectrum.statistics
        phi_SK = np.asarray(embeddings_SK, np.float64)
        if phi_SK.ndim != 2 or len(phi_SK) != statistics.num_classes:
            raise ValueError(f"embeddings {phi_SK.shape} do not fit {statistics.num_classes} seen classes")
        self._spectrum = spectrum
        gram_KK = phi_SK.T @ phi_SK
        self._values_K, self._vectors_KK = linalg.eigh(gram_KK, driver="evd")
        self._values_K = np.maximum(self._values_K, 0.0)
        # X^T Y S with Y = 2 one_hot - 1, so X^T Y = 2 sums^T - total 1^T.
        cross_FK = 2.0 * statistics.sums_SF.T @ phi_SK
        cross_FK -= np.outer(statistics.sums_SF.sum(axis=0), phi_SK.sum(axis=0))
        self._core_FK = spectrum.vectors_FF.T @ cross_FK @ self._vectors_KK

    @cached_property
    def _units(self) -> tuple[float, float]:
        return float(self._spectrum.values_F.mean()), float(self._values_K.mean())

    def left(self, gamma: float) -> np.ndarray:
        """(F, K): what image features are multiplied with."""
        damped_F = self._spectrum.values_F + gamma * self._units[0]
        return self._spectrum.vectors_FF @ (self._core_FK / damped_F[:, None])

    def right(self, lambda_: float) -> np.ndarray:
        """(K, K): what class embeddings (C, K) are multiplied with from the right."""
        return self._vectors_KK / (self._values_K + lambda_ * self._units[1])

    def solve(self, gamma: float, lambda_: float) -> np.ndarray:
        """V (F, K), float64; the score of image x for class embedding e is x^T V e."""
        return self.left(gamma) @ self.right(lambda_).T


def solve_eszsl(
    statistics: EszslStatistics | FeatureSpectrum,
    embeddings_SK: np.ndarray,
    gammas: Sequence[float],
    lambdas: Sequence[float],
) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """V (F, K) float64 for every pair of the grid; both in the relative units of `EszslFactors`.

    Raises:
        ValueError: shapes that do not fit, or a gamma or lambda that is not positive.
    """
    if min(*gammas, *lambdas) <= 0:
        raise ValueError("gammas and lambdas must be positive")
    spectrum = statistics if isinstance(statistics, FeatureSpectrum) else FeatureSpectrum.of(statistics)
    factors = EszslFactors(spectrum, embeddings_SK)
    for gamma in gammas:
        left_FK = factors.left(gamma)
        for lambda_ in lambdas:
            yield (gamma, lambda_), left_FK @ factors.right(lambda_).T

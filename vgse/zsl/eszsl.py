"""ESZSL in closed form from accumulated statistics: exact for any number of images.

Romera-Paredes and Torr, "An embarrassingly simple approach to zero-shot learning" (ICML 2015), equation 5, with
images in rows: V = (X^T X + gamma I)^-1 X^T Y S (S^T S + lambda I)^-1, Y (N, S) in {-1, 1}, S the seen embeddings.

V is taken apart into A = (X^T X + gamma I)^-1 X^T Y, ridge classifiers (F, S) of the seen classes that no embedding has
a part in, and what the embeddings say: with S = L diag(s) R^T, V = A L diag(s / (s^2 + lambda)) R^T. So images are
multiplied with A once for all embeddings that are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        # The rank-k update fills one triangle, which halves the work.
        product_FF = linalg.blas.dsyrk(1.0, x_BF.T)
        self.gram_FF += product_FF
        self.gram_FF += np.triu(product_FF, 1).T
        self.sums_SF += sums_SF
        self.count_S += np.bincount(labels_B, minlength=self.num_classes)

    def merge(self, other: EszslStatistics) -> None:
        """Adds the statistics of other images of the same classes."""
        if other.sums_SF.shape != self.sums_SF.shape:
            raise ValueError(f"statistics {other.sums_SF.shape} do not merge into {self.sums_SF.shape}")
        self.gram_FF += other.gram_FF
        self.sums_SF += other.sums_SF
        self.count_S += other.count_S

    def of_classes(self, rows: np.ndarray) -> EszslStatistics:
        """The same images with only these classes (row numbers), in this order; the others must have no image.

        Raises:
            ValueError: an image is of another class.
        """
        out = EszslStatistics(self.feature_dim, len(rows))
        out.gram_FF, out.sums_SF, out.count_S = self.gram_FF, self.sums_SF[rows], self.count_S[rows]
        if out.images != self.images:
            raise ValueError(f"{self.images - out.images} images are of classes that were left out")
        return out

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


def ridge_classifiers(statistics: EszslStatistics, gamma: float) -> np.ndarray:
    """A = (X^T X + gamma I)^-1 X^T Y, (F, S) float64, Y = 2 one_hot - 1; gamma in units of trace(X^T X) / F.

    Raises:
        DataError: every feature is zero, so there is nothing to learn from.
        ValueError: gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, not {gamma}")
    unit = float(np.trace(statistics.gram_FF)) / statistics.feature_dim
    if not unit > 0:
        raise DataError("the features of all training images are the same", "check the backbone and its weights")
    damped_FF = statistics.gram_FF.copy()
    damped_FF.flat[:: len(damped_FF) + 1] += gamma * unit
    cross_FS = 2.0 * statistics.sums_SF.T - statistics.sums_SF.sum(axis=0)[:, None]
    return linalg.cho_solve(linalg.cho_factor(damped_FF, lower=True, overwrite_a=True, check_finite=False), cross_FS)


class EmbeddingFactors:
    """The embeddings' part of V for any lambda, after one decomposition S = L diag(s) R^T.

    lambda is given in units of trace(S^T S) / K, so that one grid serves embeddings of any scale and width.

    Args:
        embeddings_SK: class embeddings of the seen classes.

    Attributes:
        left_SR: L, what products of images with the ridge classifiers are multiplied with; R = min(S, K).
    """

    def __init__(self, embeddings_SK: np.ndarray) -> None:
        left_SR, self._values_R, self._right_RK = linalg.svd(np.asarray(embeddings_SK, np.float64), full_matrices=False)
        self.left_SR: np.ndarray = left_SR
        self._unit = float((self._values_R**2).sum()) / embeddings_SK.shape[1]

    def right(self, lambda_: float) -> np.ndarray:
        """(K, R): what class embeddings (C, K) are multiplied with."""
        return self._right_RK.T * (self._values_R / (self._values_R**2 + lambda_ * self._unit))


def solve_eszsl(
    statistics: EszslStatistics, embeddings_SK: np.ndarray, gammas: Sequence[float], lambdas: Sequence[float]
) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """V (F, K) float64 for every pair of the grid, in the units of `ridge_classifiers` and `EmbeddingFactors`.

    The score of image x for class embedding e is x^T V e.

    Args:
        statistics: of the training images.
        embeddings_SK: class embeddings of the seen classes, in the order of the statistics' classes.
        gammas, lambdas: the grid.

    Raises:
        DataError: every feature is zero.
        ValueError: shapes that do not fit, or a gamma or lambda that is not positive.
    """
    if min(*gammas, *lambdas) <= 0:
        raise ValueError("gammas and lambdas must be positive")
    if embeddings_SK.ndim != 2 or len(embeddings_SK) != statistics.num_classes:
        raise ValueError(f"embeddings {embeddings_SK.shape} do not fit {statistics.num_classes} seen classes")
    factors = EmbeddingFactors(embeddings_SK)
    for gamma in gammas:
        left_FR = ridge_classifiers(statistics, gamma) @ factors.left_SR
        for lambda_ in lambdas:
            yield (gamma, lambda_), left_FR @ factors.right(lambda_).T

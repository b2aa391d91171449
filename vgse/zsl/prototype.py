"""The whitened-prototype classifier: class embeddings predict what a class's mean image looks like.

An image prototype v_s is the mean feature of a seen class's training images. Ridge regression in closed form takes
class embeddings to prototypes, as in Changpinyo et al., "Predicting visual exemplars of unseen classes for zero-shot
learning" (ICCV 2017, there by kernel regression); seen classes keep their own prototypes. The score of image x for
class c is cos(M x, M v_c) with M = (Sigma_within + lam I)^(-1/2), the whitening of linear discriminant analysis.

With embeddings r^T phi of an unseen class, sum r = 1 and as many independent dimensions as seen classes, a vanishing
ridge gives v_m = r^T V_s: the relation carries prototypes, and the embeddings themselves drop out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.features import l2_rows

# Spread within classes below this share of the whole is rounding error.
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class WithinSpectrum:
    """Sigma_within = (X^T X - sum_s n_s v_s v_s^T) / N = Q diag(d) Q^T, and the prototypes in its basis.

    Attributes:
        values_F: d, ascending, not negative.
        vectors_FF: Q, one eigenvector per column, float32.
        prototypes_SF: v_s Q, float64.
        unit: trace(Sigma_within) / F, the unit of `shrinkage`; 1 with d = 0 where classes do not spread, so that
            nothing is whitened.
    """

    values_F: np.ndarray
    vectors_FF: np.ndarray
    prototypes_SF: np.ndarray
    unit: float

    @classmethod
    def of(cls, statistics: EszslStatistics) -> WithinSpectrum:
        """Decomposes the covariance within classes; every class must have images."""
        prototypes_SF = statistics.sums_SF / statistics.count_S[:, None]
        within_FF = (statistics.gram_FF - statistics.sums_SF.T @ prototypes_SF) / statistics.images
        unit = float(np.trace(within_FF)) / len(within_FF)
        values_F, vectors_FF = linalg.eigh(within_FF, driver="evd", overwrite_a=True)
        if unit * statistics.images * len(values_F) <= _NO_SPREAD * np.trace(statistics.gram_FF):
            values_F, unit = np.zeros_like(values_F), 1.0
        return cls(np.maximum(values_F, 0.0), vectors_FF.astype(np.float32), prototypes_SF @ vectors_FF, unit)

    def scale(self, shrinkage: float) -> np.ndarray:
        """Diagonal of M in the basis Q, (F,) float64; lam is `shrinkage` units."""
        return 1.0 / np.sqrt(self.values_F + shrinkage * self.unit)

    def whitened(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        """What turns images and prototypes into points of one whitened space of R = min(S, F) dimensions.

        With fewer classes than features the space is the span of the whitened prototypes: all that products with
        prototypes need of an image, which makes scores N S C instead of N F C products.

        Returns:
            left (F, R) float32 and the seen prototypes (S, R) float64: products of `x left` with a combination of
            these rows are products of M x with the same combination of M v_s, and lengths of such combinations agree.
        """
        scale_F = self.scale(shrinkage)
        whitened_SF = self.prototypes_SF * scale_F
        if len(whitened_SF) >= len(scale_F):
            return self.vectors_FF * scale_F.astype(np.float32), whitened_SF
        basis_FS, triangle_SS = linalg.qr(whitened_SF.T, mode="economic")
        return self.vectors_FF @ (basis_FS * scale_F[:, None]).astype(np.float32), triangle_SS.T

    def lengths(self, x_BF: np.ndarray, shrinkages: Sequence[float]) -> np.ndarray:
        """||M x|| of images for every shrinkage, (B, L) float32; 1 for an image of zeros."""
        inverse_FL = np.stack([self.scale(shrinkage) ** 2 for shrinkage in shrinkages], axis=1)
        squares_BL = (x_BF @ self.vectors_FF) ** 2 @ inverse_FL.astype(np.float32)
        return np.sqrt(np.where(squares_BL > 0, squares_BL, 1.0))


class EmbeddingRidge:
    """Ridge regression of anything that seen classes have on their embeddings, for any ridge after one decomposition.

    With e and V centred on their means over seen classes: A = (E^T E + rho I)^-1 E^T V, v_c = mean + e_c A. The ridge
    is given in units of trace(E E^T) / S.

    Args:
        embeddings_CK: class embeddings of all classes.
        seen_C: which classes are seen, bool.
    """

    def __init__(self, embeddings_CK: np.ndarray, seen_C: np.ndarray) -> None:
        self._seen_C = seen_C
        e_CK = np.asarray(embeddings_CK, np.float64) - embeddings_CK[seen_C].mean(axis=0)
        left_SR, values_R, right_RK = linalg.svd(e_CK[seen_C], full_matrices=False)
        # Centring leaves one direction of zeros.
        kept_R = values_R > values_R.max() * max(e_CK.shape) * np.finfo(np.float64).eps
        self._left_SR, self._values_R = left_SR[:, kept_R], values_R[kept_R]
        self._unseen_UR = e_CK[~seen_C] @ right_RK[kept_R].T
        self._unit = float((values_R**2).sum()) / len(left_SR)

    def predict(self, targets_SX: np.ndarray, ridge: float) -> np.ndarray:
        """Targets of all classes (C, X) float64: their own for seen classes, predicted ones for unseen classes."""
        mean_X = targets_SX.mean(axis=0)
        damped_R = self._values_R / (self._values_R**2 + ridge * self._unit)
        out_CX = np.empty((len(self._seen_C), targets_SX.shape[1]))
        out_CX[self._seen_C] = targets_SX
        out_CX[~self._seen_C] = (self._unseen_UR * damped_R) @ (self._left_SR.T @ (targets_SX - mean_X)) + mean_X
        return out_CX


def cosine_rights(ridge: EmbeddingRidge, prototypes_SR: np.ndarray, strength: float) -> np.ndarray:
    """Whitened prototypes (C, R) of all classes with rows of length 1, float32."""
    return l2_rows(ridge.predict(prototypes_SR, strength))

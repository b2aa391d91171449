"""Kernel ridge regression from class vectors to class embeddings, written as a relation r."""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from vgse.relation.problem import check_matrix, check_unseen
from vgse.relation.relations import Relations


def kernel_ridge(words_UW: np.ndarray, words_SW: np.ndarray, *, ridge: float = 0.1) -> Relations:
    """r of the regression phi(w) = mean + k(w)^T (K + ridge I)^-1 (phi(Y_s) - mean) with a Gaussian kernel.

    Saunders et al., "Ridge regression learning algorithm in dual variables" (ICML 1998). The prediction is linear in
    the seen embeddings, so it is a relation like any other; the mean as intercept makes r sum to one. The kernel's
    squared width is the mean squared distance between seen classes, so no unit of the vectors matters.

    Args:
        words_UW: unseen class vectors (U, D).
        words_SW: seen class vectors (S, D).
        ridge: in units of the kernel's diagonal, positive.

    Returns:
        Relations with dense r, unbounded in sign, the least-squares objective at ridge 0, and NaN gaps.

    Raises:
        DataError: a vector holds NaN or infinity (the row is named).
        ValueError: a ridge that is not positive, or matrices that do not fit.
    """
    return KernelRidge.of(words_SW, ridge)(words_UW)


@dataclass(frozen=True)
class KernelRidge:
    """The regression prepared on the seen classes: plain arrays, for chunks of unseen ones.

    Attributes:
        seen_SW: class vectors minus their mean.
        mean_W: that mean.
        width: the kernel's squared width.
        factor_SS: lower Cholesky factor of the kernel matrix plus the ridge.
    """

    seen_SW: np.ndarray
    mean_W: np.ndarray
    width: float
    factor_SS: np.ndarray

    @classmethod
    def of(cls, words_SW: np.ndarray, ridge: float) -> "KernelRidge":
        """Decomposes the kernel matrix of the seen classes; errors as in `kernel_ridge`."""
        if not 0.0 < ridge < np.inf:
            raise ValueError(f"ridge must be a finite number > 0, got {ridge!r}")
        words_SW = check_matrix(words_SW, "words_SW")
        if words_SW.shape[0] == 0:
            raise ValueError("words_SW has no rows: at least one seen class is needed")
        mean_W = words_SW.mean(axis=0)
        seen_SW, seen = words_SW - mean_W, len(words_SW)
        # The mean squared distance of distinct pairs is 2 S / (S - 1) times the mean square of centred vectors.
        width = 2.0 * float((seen_SW**2).sum(axis=1).mean()) * seen / max(1, seen - 1) or 1.0
        kernel_SS = _gaussian(seen_SW, seen_SW, width)
        kernel_SS[np.diag_indices(seen)] += ridge
        return cls(seen_SW, mean_W, width, linalg.cholesky(kernel_SS, lower=True, overwrite_a=True))

    def __call__(self, words_UW: np.ndarray) -> Relations:
        """The relation of unseen classes (U, D)."""
        unseen_UW = check_unseen(words_UW, self.seen_SW.shape[1]) - self.mean_W
        kernel_SU = _gaussian(self.seen_SW, unseen_UW, self.width)
        alpha_US = linalg.cho_solve((self.factor_SS, True), kernel_SU, overwrite_b=True).T
        r_US = alpha_US + (1.0 - alpha_US.sum(axis=1, keepdims=True)) / len(self.seen_SW)
        objective_U = 0.5 * ((unseen_UW - r_US @ self.seen_SW) ** 2).sum(axis=1)
        unseen = len(unseen_UW)
        return Relations(r_US, objective_U, np.full(unseen, np.nan), ["kernel_ridge"] * unseen)


def _gaussian(left_AW: np.ndarray, right_BW: np.ndarray, width: float) -> np.ndarray:
    squared_AB = (left_AW**2).sum(axis=1)[:, None] + (right_BW**2).sum(axis=1) - 2.0 * left_AW @ right_BW.T
    return np.exp(-np.maximum(squared_AB, 0.0) / width)

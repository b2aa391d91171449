"""From the seen word vectors and settings to the problem all unseen classes share."""

from typing import Any

import numpy as np

from vgse.errors import DataError
from vgse.relation.dual_active_set import inverse_hessian
from vgse.relation.problem import TIE_RIDGE, Problem, check_matrix, check_settings

# S x S matrices are kept up to this many seen classes (32 MiB each); beyond it columns are generated.
MOST_FOR_GRAM = 2048


def prepare(words_SW: np.ndarray, alpha: float = 0.0, ridge: float = 0.0) -> Problem:
    """Checks the seen vectors and settings, and computes once what every unseen class needs.

    Args:
        words_SW: seen word vectors (S, D), any real type.
        alpha: lower bound of r, in [-1, 0].
        ridge: weight of ||r||^2 / 2, in the squared units of the vectors.

    Raises:
        DataError: a vector holds NaN or infinity (the row is named).
        ValueError: alpha or ridge out of range, or a matrix of the wrong shape.
    """
    alpha, ridge = check_settings(alpha, ridge)
    words_SW = check_matrix(words_SW, "words_SW")
    if words_SW.shape[0] == 0:
        raise ValueError("words_SW has no rows: at least one seen class is needed")
    # First by the largest entry (squares of 1e200 overflow), then by the root mean squared norm.
    largest = float(np.abs(words_SW).max(initial=0.0)) or 1.0
    unit_SD = words_SW / largest
    mean_D = unit_SD.mean(axis=0)
    centred_SD = unit_SD - mean_D
    # Rounding of the mean leaves a residue of about 1e-16; vectors that are all equal must come out as exact zeros.
    centred_SD[np.abs(centred_SD) < 4 * np.finfo(float).eps * np.abs(mean_D)] = 0.0
    spread = float(np.sqrt(np.mean(np.sum(centred_SD**2, axis=1))))
    norm = max(spread, np.sqrt(ridge) / largest) or 1.0
    seen_SD = np.ascontiguousarray(centred_SD / norm)
    scale = largest * norm
    if not 1e-150 < scale < 1e150:
        # Objectives are in squared units: beyond this they leave the range of float64.
        row = int(np.abs(words_SW).max(axis=1).argmax())
        raise DataError(
            f"words_SW: the vectors (the largest in row {row}) are of order {scale:.0e}, too far from 1 for float64",
            "rescale all word vectors by one number",
        )
    ridge = (np.sqrt(ridge) / scale) ** 2
    tie_ridge = TIE_RIDGE * max((spread / norm) ** 2, 1e-8)
    return Problem(
        seen_SD=seen_SD,
        mean_D=mean_D * largest,
        scale=scale,
        alpha=alpha,
        ridge=ridge,
        tie_ridge=tie_ridge,
        gram_SS=seen_SD @ seen_SD.T if seen_SD.shape[0] <= MOST_FOR_GRAM else None,
        **_factors(seen_SD, alpha, ridge + tie_ridge),
    )


def _factors(seen_SD: np.ndarray, alpha: float, damping: float) -> dict[str, Any]:
    """What the paths for alpha < 0 need of the seen vectors."""
    if alpha == 0.0:
        return {}
    left_SK, singular_K, right_KD = np.linalg.svd(seen_SD, full_matrices=False)
    # Centring leaves at least one singular value that is zero but for rounding; over the tie ridge's 1e-8 that
    # rounding would come out a million times larger, so such directions go.
    kept_K = singular_K > 1e-12 * singular_K.max(initial=0.0)
    left_SK, singular_K, right_KD = left_SK[:, kept_K], singular_K[kept_K], right_KD[kept_K]
    factors: dict[str, Any] = {"left_SK": left_SK, "singular_K": singular_K, "right_KD": right_KD}
    if seen_SD.shape[0] <= MOST_FOR_GRAM:
        factors["inverse_SS"], factors["most_active"] = inverse_hessian(left_SK, singular_K, damping)
    return factors

"""The weighted average of the nearest seen classes: the paper's other way to a relation (VGSE, section 3.3)."""

import numpy as np

from vgse.relation.problem import check_matrix, check_unseen
from vgse.relation.relations import Relations

_BLOCK = 1024


def weighted_average(words_UW: np.ndarray, words_SW: np.ndarray, *, neighbours: int = 5, eta: float = 1.0) -> Relations:
    """r from the `neighbours` nearest seen classes with weights exp(-eta d), normalised to sum one.

    d is the Euclidean distance of the word vectors. Where there are fewer seen classes than neighbours all are used;
    among equally near classes the first in order is taken.

    Args:
        words_UW: unseen word vectors (U, D).
        words_SW: seen word vectors (S, D).
        neighbours: N_b, at least 1.
        eta: decay per unit of distance, finite and >= 0 (0 is the plain mean of the neighbours).

    Returns:
        Relations with dense r, the objective at ridge 0, and NaN gaps: nothing was minimised.

    Raises:
        DataError: a vector holds NaN or infinity (the row is named).
        ValueError: a setting out of range, or matrices that do not fit.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours!r}")
    if not 0.0 <= eta < np.inf:
        raise ValueError(f"eta must be a finite number >= 0, got {eta!r}")
    words_SW = check_matrix(words_SW, "words_SW")
    if words_SW.shape[0] == 0:
        raise ValueError("words_SW has no rows: at least one seen class is needed")
    words_UW = check_unseen(words_UW, words_SW.shape[1])
    unseen, seen = words_UW.shape[0], words_SW.shape[0]
    count = min(neighbours, seen)
    r_US = np.zeros((unseen, seen))
    objective_U = np.zeros(unseen)
    mean_W = words_SW.mean(axis=0)
    seen_SW, squares_S = words_SW - mean_W, ((words_SW - mean_W) ** 2).sum(axis=1)
    for start in range(0, unseen, _BLOCK):
        block = slice(start, min(start + _BLOCK, unseen))
        unseen_BW = words_UW[block] - mean_W
        # Ranked by the expanded square (one matrix product); the distances that enter r are taken from differences.
        near_BN = np.argsort(squares_S - 2.0 * unseen_BW @ seen_SW.T, axis=1, kind="stable")[:, :count]
        distance_BN = np.linalg.norm(unseen_BW[:, None, :] - seen_SW[near_BN], axis=2)
        # Taking off the smallest distance changes nothing after normalising and keeps exp from underflowing to 0 / 0.
        weight_BN = np.exp(-eta * (distance_BN - distance_BN.min(axis=1, keepdims=True)))
        weight_BN /= weight_BN.sum(axis=1, keepdims=True)
        np.put_along_axis(r_US[block], near_BN, weight_BN, axis=1)
        objective_U[block] = 0.5 * ((unseen_BW - r_US[block] @ seen_SW) ** 2).sum(axis=1)
    return Relations(r_US, objective_U, np.full(unseen, np.nan), ["weighted_average"] * unseen)

"""alpha < 0: the optimum without the bounds, for all classes by one SVD and one matrix product.

With X = seen_SD = U diag(s) V^T and sum r = 1 (X is centred, so the ones vector is in its left null space),

    r = 1/S + U diag(s / (s^2 + damping)) V^T w,

which is r = 1/S + X (X^T X + damping I)^-1 w. Wherever it lies in the box it is the optimum of the whole problem.
"""

import numpy as np

from vgse.relation.problem import Problem


def closed_form(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """r (U, S) with sum r = 1 and without bounds, after two proximal rounds (see `active_set`)."""
    left_SK, singular_K, right_KD = problem.factors
    damping = problem.ridge + problem.tie_ridge
    inner_K = singular_K**2 + damping
    # Two rounds in one: (s a + tie (s a / inner)) / inner.
    filter_K = singular_K * (inner_K + problem.tie_ridge) / inner_K**2
    r_US = ((unseen_UD @ right_KD.T) * filter_K) @ left_SK.T
    r_US += 1.0 / problem.seen
    return r_US


def free_minimiser(problem: Problem, unseen_UD: np.ndarray, centre_US: np.ndarray | None = None) -> np.ndarray:
    """One proximal round: the minimiser (U, S) of f + tie/2 ||r - centre||^2 under sum r = 1, centre 0 if None."""
    left_SK, singular_K, right_KD = problem.factors
    inner_K = singular_K**2 + problem.ridge + problem.tie_ridge
    coefficient_UK = (unseen_UD @ right_KD.T) * singular_K
    if centre_US is None:
        return (coefficient_UK / inner_K) @ left_SK.T + 1.0 / problem.seen
    centre_UK = centre_US @ left_SK
    coefficient_UK = (coefficient_UK + problem.tie_ridge * centre_UK) / inner_K
    # Outside the range of X only the ridges act: they pull the centre's part there towards zero.
    keep = problem.tie_ridge / (problem.ridge + problem.tie_ridge)
    outside_US = centre_US - centre_UK @ left_SK.T
    outside_US -= outside_US.mean(axis=1, keepdims=True)
    return coefficient_UK @ left_SK.T + keep * outside_US + 1.0 / problem.seen

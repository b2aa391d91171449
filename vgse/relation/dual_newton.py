"""Many free entries and active bounds: semismooth Newton on the D-dimensional dual, one class at a time.

With damping = ridge + tie and y = residual / damping, optimality reads r = clip(X y - m + c, alpha, 1) together with
damping y = w - X^T r and sum r = 1 (c is the proximal centre's part). These say that the gradient of a convex,
piecewise quadratic function of (y, m) vanishes. Newton's step solves a D x D (or k x k, k free entries) system, and an
exact search along it - the slope is monotone and piecewise linear - makes it converge from anywhere (Qi and Sun,
Mathematical Programming 58, 1993).
"""

import numpy as np
from scipy import linalg

from vgse.relation.problem import Problem

_MOST_STEPS = 60


def dual_newton(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """r (U, S); where it did not converge, what it last had (the certificate judges it) or NaN."""
    r_US = np.empty((unseen_UD.shape[0], problem.seen))
    for u, w_D in enumerate(unseen_UD):
        try:
            y_D, r_S = _minimise(problem, w_D, np.zeros(problem.seen), np.zeros(w_D.size))
            r_US[u] = _minimise(problem, w_D, r_S, y_D)[1]
        except linalg.LinAlgError:
            r_US[u] = np.nan
    return r_US


def _minimise(
    problem: Problem, w_D: np.ndarray, centre_S: np.ndarray, y_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One proximal round from y. Returns y and r."""
    x_SD, alpha = problem.seen_SD, problem.alpha
    damping = problem.ridge + problem.tie_ridge
    shift_S = (problem.tie_ridge / damping) * centre_S
    t_S = x_SD @ y_D + shift_S
    t_S -= _balance(t_S, alpha)
    best = np.inf
    for _ in range(_MOST_STEPS):
        r_S = np.clip(t_S, alpha, 1.0)
        miss_D = damping * y_D - w_D + x_SD.T @ r_S
        short = 1.0 - r_S.sum()
        error = max(float(np.abs(miss_D).max()), abs(short))
        if error < 1e-15 * (1.0 + float(np.abs(w_D).max())) or not np.isfinite(error):
            break
        free_S = (t_S > alpha) & (t_S < 1.0)
        step_D, level_step = _newton_step(x_SD[free_S], damping, miss_D, short)
        t_step_S = x_SD @ step_D - level_step
        length = _search(t_S, t_step_S, alpha, damping, y_D, step_D, w_D, level_step)
        y_D, t_S = y_D + length * step_D, t_S + length * t_step_S
        if error > 0.9 * best and best < 1e-12:
            break
        best = min(best, error)
    return y_D, np.clip(t_S, alpha, 1.0)


def _balance(t_S: np.ndarray, alpha: float) -> float:
    """The level m with sum clip(t - m, alpha, 1) = 1: the root of a monotone piecewise linear function."""
    low, high = float(t_S.min()) - 1.0, float(t_S.max()) - alpha
    for _ in range(60):
        middle = 0.5 * (low + high)
        if np.clip(t_S - middle, alpha, 1.0).sum() > 1.0:
            low = middle
        else:
            high = middle
    middle = 0.5 * (low + high)
    free_S = (t_S - middle > alpha) & (t_S - middle < 1.0)
    if free_S.any():
        middle += (np.clip(t_S - middle, alpha, 1.0).sum() - 1.0) / free_S.sum()
    return middle


def _newton_step(free_KD: np.ndarray, damping: float, miss_D: np.ndarray, short: float) -> tuple[np.ndarray, float]:
    """The step of (y, m): [damping I + F^T F, -F^T 1; -1^T F, K] (dy, dm) = -(miss, short)."""
    count, width = free_KD.shape
    if count == 0:
        return -miss_D / damping, -short
    if count <= width:
        # By the change v of the free entries: (damping I + F F^T) v = -F miss - damping dm 1, sum v = short.
        matrix_KK = free_KD @ free_KD.T
        matrix_KK[np.diag_indices(count)] += damping
        factor = linalg.cho_factor(matrix_KK, lower=True, check_finite=False)
        both_K2 = linalg.cho_solve(factor, np.column_stack([-(free_KD @ miss_D), np.ones(count)]), check_finite=False)
        pull = (both_K2[:, 0].sum() - short) / both_K2[:, 1].sum()
        v_K = both_K2[:, 0] - pull * both_K2[:, 1]
        return (-miss_D - free_KD.T @ v_K) / damping, pull / damping
    # The sum is eliminated by centring the free rows, which also keeps the matrix well conditioned.
    mean_D = free_KD.mean(axis=0)
    centred_KD = free_KD - mean_D
    matrix_DD = centred_KD.T @ centred_KD
    matrix_DD[np.diag_indices(width)] += damping
    factor = linalg.cho_factor(matrix_DD, lower=True, check_finite=False)
    step_D = linalg.cho_solve(factor, -miss_D - mean_D * short, check_finite=False)
    return step_D, float(mean_D @ step_D) - short / count


def _search(t_S, t_step_S, alpha, damping, y_D, step_D, w_D, level_step) -> float:
    """The length at which the dual's slope along the step is zero."""
    constant = float(damping * (y_D @ step_D) - w_D @ step_D) + level_step
    growth = damping * float(step_D @ step_D)

    def slope(length: float) -> float:
        r_S = np.clip(t_S + length * t_step_S, alpha, 1.0)
        return constant + length * growth + float(r_S @ t_step_S)

    scale = abs(slope(0.0))
    if abs(slope(1.0)) <= 1e-3 * scale:
        return 1.0
    low, high = 0.0, 1.0
    while slope(high) < 0.0 and high < 1e6:
        low, high = high, 4.0 * high
    for _ in range(50):
        middle = 0.5 * (low + high)
        value = slope(middle)
        if value < 0.0:
            low = middle
        else:
            high = middle
        if abs(value) <= 1e-3 * scale:
            return middle
    return 0.5 * (low + high)

"""The fallback: a primal-dual interior-point method for one class, slow and hard to upset.

Mehrotra's predictor-corrector for a convex QP with a box and one equality (Nocedal and Wright, Numerical
Optimization, 2nd edition, algorithm 16.4). Every other path is checked by the certificate; rows that fail come here.
"""

from collections.abc import Callable

import numpy as np
from scipy import linalg

from vgse.relation.problem import Problem

_MOST_STEPS = 80


def interior_point(problem: Problem, w_D: np.ndarray, centre_S: np.ndarray | None = None) -> np.ndarray:
    """r (S,) minimising the scaled problem plus tie_ridge/2 ||r - centre||^2; `centre` is zero if None."""
    x_SD, alpha = problem.seen_SD, problem.alpha
    seen = problem.seen
    damping = problem.ridge + problem.tie_ridge
    linear_S = x_SD @ w_D
    if centre_S is not None:
        linear_S = linear_S + problem.tie_ridge * centre_S
    # Units in which the gradient is about one: classes may lie far outside the cloud of seen classes.
    unit = max(float(np.abs(linear_S).max()), 1.0)
    r_S = np.full(seen, 1.0 / seen)
    if seen == 1:
        return r_S
    multiplier = 0.0
    lower_S, upper_S = np.full(seen, unit), np.full(seen, unit)
    for _ in range(_MOST_STEPS):
        below_S, above_S = np.maximum(r_S - alpha, 1e-18), 1.0 - r_S
        complement = float((lower_S * below_S + upper_S * above_S).sum()) / (2 * seen)
        dual_S = x_SD @ (x_SD.T @ r_S) + damping * r_S - linear_S - multiplier - lower_S + upper_S
        primal = r_S.sum() - 1.0
        if complement < 1e-17 * unit and np.abs(dual_S).max() < 1e-13 * unit:
            break
        weight_S = damping + lower_S / below_S + upper_S / above_S
        try:
            solve = _factorise(x_SD, weight_S)
        except linalg.LinAlgError:
            break
        ones_S = solve(np.ones(seen))
        affine = _direction(solve, ones_S, dual_S, primal, r_S, alpha, lower_S, upper_S, 0.0, 0.0)
        length = _longest(affine, below_S, above_S, lower_S, upper_S)
        after = _complement_after(affine, length, below_S, above_S, lower_S, upper_S)
        target = (after / complement) ** 3 * complement
        step_S, _, lower_step_S, upper_step_S = affine
        full = _direction(
            solve, ones_S, dual_S, primal, r_S, alpha, lower_S, upper_S,
            target - step_S * lower_step_S, target + step_S * upper_step_S,
        )  # fmt: skip
        length = 0.9995 * _longest(full, below_S, above_S, lower_S, upper_S)
        if not (np.isfinite(full[0]).all() and length >= 1e-12):
            break
        # An entry that rounding puts on its bound would divide by zero.
        r_S = np.clip(r_S + length * full[0], alpha, 1.0 - 2e-16)
        multiplier += length * full[1]
        lower_S, upper_S = lower_S + length * full[2], upper_S + length * full[3]
    return _snap(r_S, lower_S, upper_S, alpha)


def _factorise(x_SD: np.ndarray, weight_S: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Solver of (diag(weight) + X X^T) a = b, by whichever of the two sides is smaller."""
    seen, width = x_SD.shape
    if seen <= 2 * width:
        factor = linalg.cho_factor(x_SD @ x_SD.T + np.diag(weight_S), lower=True, check_finite=False)
        return lambda b_S: linalg.cho_solve(factor, b_S, check_finite=False)
    scaled_SD = x_SD / weight_S[:, None]
    inner = linalg.cho_factor(np.eye(width) + x_SD.T @ scaled_SD, lower=True, check_finite=False)
    return lambda b_S: b_S / weight_S - scaled_SD @ linalg.cho_solve(inner, scaled_SD.T @ b_S, check_finite=False)


def _direction(solve, ones_S, dual_S, primal, r_S, alpha, lower_S, upper_S, lower_target, upper_target):
    below_S, above_S = np.maximum(r_S - alpha, 1e-18), 1.0 - r_S
    right_S = -dual_S + (lower_target / below_S - lower_S) - (upper_target / above_S - upper_S)
    base_S = solve(right_S)
    multiplier_step = (-primal - base_S.sum()) / ones_S.sum()
    step_S = base_S + multiplier_step * ones_S
    lower_step_S = lower_target / below_S - lower_S - lower_S / below_S * step_S
    upper_step_S = upper_target / above_S - upper_S + upper_S / above_S * step_S
    return step_S, multiplier_step, lower_step_S, upper_step_S


def _longest(direction, below_S, above_S, lower_S, upper_S) -> float:
    step_S, _, lower_step_S, upper_step_S = direction
    length = 1.0
    for value_S, change_S in ((below_S, step_S), (above_S, -step_S), (lower_S, lower_step_S), (upper_S, upper_step_S)):
        shrinking_S = change_S < 0
        if shrinking_S.any():
            length = min(length, float((-value_S[shrinking_S] / change_S[shrinking_S]).min()))
    return length


def _complement_after(direction, length, below_S, above_S, lower_S, upper_S) -> float:
    step_S, _, lower_step_S, upper_step_S = direction
    low = (below_S + length * step_S) * (lower_S + length * lower_step_S)
    high = (above_S - length * step_S) * (upper_S + length * upper_step_S)
    return float((low + high).sum()) / (2 * step_S.size)


def _snap(r_S: np.ndarray, lower_S: np.ndarray, upper_S: np.ndarray, alpha: float) -> np.ndarray:
    """Puts entries whose multiplier outweighs their distance from the bound exactly on it."""
    largest = max(float(lower_S.max()), float(upper_S.max()), 1e-300)
    r_S = np.where(r_S - alpha < 1e-3 * lower_S / largest, alpha, r_S)
    return np.where(1.0 - r_S < 1e-3 * upper_S / largest, 1.0, r_S)

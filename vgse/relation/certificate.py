"""A proven upper bound on objective - optimum for any feasible r, and the repair of rounding in the constraints.

With q = gradient - mu for any number mu, convexity and sum(r - s) = 0 give for every feasible s

    f(r) - f(s) <= sum_i [ q_i (r_i - s_i) - ridge/2 (s_i - r_i)^2 ],

and the right-hand side separates over i, so its maximum over the box is a closed form: an upper bound on the gap.
At ridge 0 and the best mu it is the Frank-Wolfe gap g.r - min_s g.s (Jaggi, ICML 2013, equation 2).
The bound is valid for every mu; a good one only makes it small.
"""

import numpy as np

from vgse.relation.problem import Problem

# |sum r - 1| up to this is left alone: it is what adding thousands of numbers leaves.
_SUM_ROUNDING = 1e-14


def gradient(problem: Problem, unseen_UD: np.ndarray, r_US: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objective (U,) and gradient (U, S) of the scaled problem (without the proximal term) at r."""
    residual_UD = unseen_UD - r_US @ problem.seen_SD
    gradient_US = residual_UD @ -problem.seen_SD.T
    objective_U = 0.5 * np.einsum("ud,ud->u", residual_UD, residual_UD)
    if problem.ridge:
        gradient_US += problem.ridge * r_US
        objective_U += 0.5 * problem.ridge * np.einsum("us,us->u", r_US, r_US)
    return objective_U, gradient_US


def gap_bound(problem: Problem, r_US: np.ndarray, gradient_US: np.ndarray) -> np.ndarray:
    """The bound (U,) of the module's docstring, in the units of the scaled problem."""
    alpha, ridge = problem.alpha, problem.ridge
    if alpha == 0.0:
        # sum r = 1 and r >= 0 imply r <= 1; with mu = min g only the lower bounds matter and the bound is tightest.
        mu_U = gradient_US.min(axis=1)
    else:
        # The multiplier is the gradient of the free entries; one next to a bound counts by its distance from it.
        room_US = np.minimum(r_US - alpha, 1.0 - r_US)
        total_U = room_US.sum(axis=1)
        mu_U = np.einsum("us,us->u", gradient_US, room_US) / np.where(total_U > 0, total_U, 1.0)
        cornered_U = total_U < 1e-9
        if cornered_U.any():
            mu_U[cornered_U] = _best_multiplier(gradient_US[cornered_U], alpha)
    q_US = gradient_US - mu_U[:, None]
    if ridge > 0.0:
        step_US = np.clip(q_US * (-1.0 / ridge), alpha - r_US, 1.0 - r_US)
        terms_U = -np.einsum("us,us->u", step_US, q_US + 0.5 * ridge * step_US)
    elif alpha == 0.0:
        terms_U = np.einsum("us,us->u", q_US, r_US)
    else:
        terms_U = np.einsum("us,us->u", q_US, r_US - np.where(q_US > 0, alpha, 1.0))
    return terms_U + np.abs(mu_U) * np.abs(r_US.sum(axis=1) - 1.0)


def _best_multiplier(gradient_US: np.ndarray, alpha: float) -> np.ndarray:
    """The mu (U,) of the tightest bound at ridge 0: the gradient at which the best vertex runs out of mass.

    That vertex, the minimiser of g.s, puts 1 on the smallest gradients until sum s = 1 with alpha on the rest.
    """
    seen = gradient_US.shape[1]
    whole = min(int((1.0 - seen * alpha) / (1.0 - alpha)), seen - 1)
    return np.partition(gradient_US, whole, axis=1)[:, whole]


def make_feasible(r_US: np.ndarray, alpha: float) -> np.ndarray:
    """Clips to the box and spreads what is missing of sum r = 1 over the entries that are off their bounds."""
    outside_U = (r_US.min(axis=1) < alpha) | (r_US.max(axis=1) > 1.0)
    wrong_U = outside_U | (np.abs(r_US.sum(axis=1) - 1.0) > _SUM_ROUNDING)
    if not wrong_U.any():
        return r_US
    part_NS = np.clip(r_US[wrong_U], alpha, 1.0)
    for attempt in range(4):
        excess_N = part_NS.sum(axis=1) - 1.0
        room_NS = np.where(excess_N[:, None] > 0, part_NS - alpha, 1.0 - part_NS)
        if attempt < 3:
            # Entries on a bound stay exactly there ...
            room_NS *= (part_NS != alpha) & (part_NS != 1.0)
        else:
            # ... unless the others have no room left.
            excess_N[np.abs(excess_N) <= _SUM_ROUNDING] = 0.0
        total_N = room_NS.sum(axis=1)
        share_N = np.divide(excess_N, total_N, out=np.zeros_like(excess_N), where=total_N > 0)
        part_NS = np.clip(part_NS - share_N[:, None] * room_NS, alpha, 1.0)
    r_US = r_US.copy()
    r_US[wrong_U] = part_NS
    return r_US


def violation(r_US: np.ndarray, alpha: float) -> np.ndarray:
    """The largest violation (U,) of the bounds and of sum r = 1. NaN stays NaN."""
    outside_U = np.maximum(alpha - r_US.min(axis=1), r_US.max(axis=1) - 1.0)
    return np.maximum(np.maximum(outside_U, 0.0), np.abs(r_US.sum(axis=1) - 1.0))

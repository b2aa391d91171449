"""Thousands of seen classes: solve on the few that matter, without an S x S matrix.

Each class starts with its nearest seen classes free to move and all others at alpha. The small problem is solved
exactly, the gradient of all seen classes is taken for the whole block by one matrix product, and those that would lower
the objective join (column generation, or sifting: Bixby et al., Operations Research 40, 1992). It ends when none
would, which is optimality for all.
"""

import numpy as np

from vgse.relation.active_set import block_solver, expects_many, few_free
from vgse.relation.problem import Problem

_FIRST_COLUMNS = 64
_MORE_COLUMNS = 100
_MOST_ROUNDS = 40


def column_generation(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """r (U, S); rows that could not be solved this way are NaN."""
    unseen, seen = unseen_UD.shape[0], problem.seen
    r_US = np.full((unseen, seen), np.nan)
    linear_US = unseen_UD @ problem.seen_SD.T
    if expects_many(problem, linear_US):
        return r_US
    most_columns = min(seen, 4 * few_free(problem))
    first = min(most_columns, max(_FIRST_COLUMNS, 2 * _start_count(problem)))
    distance_US = problem.half_squares_S - linear_US
    columns = [np.sort(near_N) for near_N in np.argpartition(distance_US, first - 1, axis=1)[:, :first]]
    tolerance_U = 1e-12 * np.maximum(np.abs(linear_US).max(axis=1), problem.ridge)
    open_N = np.arange(unseen)
    for _ in range(_MOST_ROUNDS):
        tried = [(u, _restricted(problem, unseen_UD[u], linear_US[u], columns[u])) for u in open_N]
        answers = [answer for _, answer in tried if answer is not None]
        open_N = np.array([u for u, answer in tried if answer is not None], np.int64)
        if not open_N.size:
            break
        slope_NS = np.stack([-residual_D for _, residual_D in answers]) @ problem.seen_SD.T
        still_open = []
        for u, (r, _), slope_S in zip(open_N, answers, slope_NS, strict=True):
            slope_S += problem.ridge * problem.alpha
            # On the columns the gradient is flat where r is off its bounds; the lowest such level is the safe one.
            level = (slope_S[columns[u]] + problem.ridge * (r - problem.alpha))[r > problem.alpha].min()
            entering = np.setdiff1d(np.flatnonzero(slope_S < level - tolerance_U[u]), columns[u], assume_unique=True)
            if not entering.size:
                r_US[u] = problem.alpha
                r_US[u, columns[u]] = r
            elif columns[u].size + min(entering.size, _MORE_COLUMNS) <= most_columns:
                if entering.size > _MORE_COLUMNS:
                    entering = entering[np.argpartition(slope_S[entering], _MORE_COLUMNS)[:_MORE_COLUMNS]]
                columns[u] = np.sort(np.concatenate([columns[u], entering]))
                still_open.append(u)
        open_N = np.array(still_open, np.int64)
        if not open_N.size:
            break
    return r_US


def _start_count(problem: Problem) -> int:
    """How many entries share the mass above alpha at the start, none of them beyond 1."""
    if problem.alpha == 0.0:
        return 1
    mass = 1.0 - problem.seen * problem.alpha
    return min(problem.seen, int(np.ceil(1.5 * mass / (1.0 - problem.alpha))) + 2)


def _restricted(
    problem: Problem, w_D: np.ndarray, linear_S: np.ndarray, columns_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """r on the given columns with all others at alpha, and the residual w - r^T X; None where that failed."""
    seen_ND = problem.seen_SD[columns_N]
    damping = problem.ridge + problem.tie_ridge
    count, alpha = min(_start_count(problem), columns_N.size), problem.alpha
    # The rows of X sum to zero, so those left at alpha contribute -alpha times the sum of the columns'.
    rest_D = -alpha * seen_ND.sum(axis=0)
    gram_NN = seen_ND @ seen_ND.T
    half_squares_N = 0.5 * gram_NN.diagonal()
    best_N = np.argpartition(half_squares_N - linear_S[columns_N], count - 1)[:count]
    r_1N, state_1N = np.full((1, columns_N.size), alpha), np.full((1, columns_N.size), -1, np.int8)
    r_1N[0, best_N] += (1.0 - problem.seen * alpha) / count
    state_1N[0, best_N] = 0
    slope_1N = (seen_ND @ (r_1N[0] @ seen_ND + rest_D - w_D) + damping * r_1N[0])[None]
    tolerance_1 = np.full(1, 1e-13 * max(float(np.abs(linear_S[columns_N]).max()), damping))
    codes_1 = block_solver()(
        gram_NN, damping, True, alpha, 1.0, problem.tie_ridge, 0.25 * damping,
        slope_1N, r_1N, state_1N, tolerance_1, columns_N.size,
    )  # fmt: skip
    if codes_1[0] != 0:
        return None
    return r_1N[0], w_D - rest_D - r_1N[0] @ seen_ND

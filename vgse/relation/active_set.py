"""The active-set method, for the primal problem (alpha = 0, or tight bounds) and for the dual one (few active bounds).

Minimise 1/2 r.(G + damping I).r - b.r over a box, with or without sum r fixed (Lawson and Hanson, Solving Least
Squares Problems, chapter 23; several constraints per round as in Portugal, Judice and Vicente, 1994). From a feasible
r: move to the minimiser on the free entries, dropping whatever meets its bound on the way, with one Cholesky factor
that is extended and shrunk; then free the entries whose gradient most wants to leave their bound. The objective falls
in every round, so it ends at the optimum.

Two proximal rounds settle ties: the first adds tie/2 ||r||^2, which makes the answer unique, the second
tie/2 ||r - r_first||^2, which takes the bias of the first out of the objective (iterated Tikhonov).
"""

import functools
import warnings
from collections.abc import Callable

import numpy as np

from vgse.relation import active_set_numpy
from vgse.relation.problem import Problem

# The gradient is taken as flat below this part of its largest entry at r = 0.
_TOLERANCE = 1e-13


@functools.cache
def block_solver() -> Callable[..., np.ndarray]:
    """The compiled `minimise_block` where Numba can be had and compiles, else the NumPy one of the same meaning."""
    try:
        from vgse.relation.active_set_kernel import minimise_block
    except ImportError:
        return active_set_numpy.minimise_block
    try:
        # One class, two seen: compiles, or loads what an earlier process compiled.
        one_US, state_US = np.array([[1.0, 0.0]]), np.array([[0, -1]], np.int8)
        minimise_block(np.eye(2), 1e-8, True, 0.0, 1.0, 1e-8, 1e-9, -one_US, one_US, state_US, np.full(1, 1e-13), 2)
    except Exception as problem:  # a full disk, a broken LLVM: slower is better than nothing
        warnings.warn(f"the compiled relation solver is not available, using NumPy: {problem}", stacklevel=2)
        return active_set_numpy.minimise_block
    return minimise_block


def simplex(
    gram_SS: np.ndarray, ridge: float, tie: float, linear_US: np.ndarray, most_free: int
) -> tuple[np.ndarray, np.ndarray]:
    """alpha = 0, each row from its nearest seen class. Returns r (U, S) and a mask (U,) of the rows solved."""
    unseen, seen = linear_US.shape
    rows_U = np.arange(unseen)
    damping = ridge + tie
    nearest_U = np.argmax(linear_US - 0.5 * gram_SS.diagonal(), axis=1)
    slope_US = gram_SS[nearest_U] - linear_US
    slope_US[rows_U, nearest_U] += damping
    r_US, state_US = np.zeros((unseen, seen)), np.full((unseen, seen), -1, np.int8)
    r_US[rows_U, nearest_U], state_US[rows_U, nearest_U] = 1.0, 0
    tolerance_U = _TOLERANCE * np.maximum(np.abs(linear_US).max(axis=1), damping)
    codes_U = block_solver()(
        gram_SS, damping, True, 0.0, 1.0, tie, 0.25 * damping, slope_US, r_US, state_US, tolerance_U, most_free
    )
    return r_US, codes_U == 0


def boxed_few(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """`boxed`, giving up on rows with more free entries than suit this method."""
    return boxed(problem, unseen_UD, few_free(problem))


def boxed(problem: Problem, unseen_UD: np.ndarray, most_free: int | None = None) -> np.ndarray:
    """Any alpha, each row from its few best seen classes; rows that could not be solved are NaN."""
    assert problem.gram_SS is not None
    alpha, seen, unseen = problem.alpha, problem.seen, unseen_UD.shape[0]
    damping = problem.ridge + problem.tie_ridge
    linear_US = unseen_UD @ problem.seen_SD.T
    # With all others at alpha, the mass left is 1 - S alpha, and no entry may take more than 1 - alpha of it.
    mass = 1.0 - seen * alpha
    count = min(seen, int(np.ceil(1.5 * mass / (1.0 - alpha))) + 2)
    best_UN = np.argpartition(-linear_US, count - 1, axis=1)[:, :count]
    r_US, state_US = np.full((unseen, seen), alpha), np.full((unseen, seen), -1, np.int8)
    np.put_along_axis(r_US, best_UN, alpha + mass / count, axis=1)
    np.put_along_axis(state_US, best_UN, 0, axis=1)
    slope_US = (r_US @ problem.seen_SD) @ problem.seen_SD.T + damping * r_US - linear_US
    tolerance_U = _TOLERANCE * np.maximum(np.abs(linear_US).max(axis=1), damping)
    codes_U = block_solver()(
        problem.gram_SS, damping, True, alpha, 1.0, problem.tie_ridge, 0.25 * damping,
        slope_US, r_US, state_US, tolerance_U, most_free or seen,
    )  # fmt: skip
    r_US[codes_U != 0] = np.nan
    return r_US


def few_free(problem: Problem) -> int:
    """The free set beyond which the dual Newton method is cheaper than a growing Cholesky factor."""
    return min(problem.seen, max(128, 2 * problem.seen_SD.shape[1]))


def expects_many(problem: Problem, linear_US: np.ndarray) -> bool:
    """Whether a strong ridge will spread r over more than `few_free` entries, judged by the first few rows.

    At the ridge's own solution r = max(0, linear / ridge - m) with sum r = 1 as many entries are free as the k largest
    whose sum exceeds k times the next by less than the ridge; the fit to the words frees more rather than fewer.
    """
    most = few_free(problem)
    if problem.ridge < 1.0 or most >= problem.seen or not len(linear_US):
        return False
    largest_NK = -np.partition(-linear_US[:4], most, axis=1)[:, : most + 1]
    excess_N = (largest_NK - largest_NK.min(axis=1, keepdims=True)).sum(axis=1)
    return bool(np.median(excess_N) < problem.ridge)


def active_set(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """r (U, S) at alpha = 0 with the whole Gram matrix at hand; rows that could not be solved are NaN."""
    assert problem.gram_SS is not None
    linear_US = unseen_UD @ problem.seen_SD.T
    if expects_many(problem, linear_US):
        return np.full(linear_US.shape, np.nan)
    r_US, solved_U = simplex(problem.gram_SS, problem.ridge, problem.tie_ridge, linear_US, few_free(problem))
    r_US[~solved_U] = np.nan
    return r_US

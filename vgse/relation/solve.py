"""Which path solves a class, and what becomes of the rows that a path could not certify."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import sparse

from vgse.relation.active_set import active_set, boxed, boxed_few
from vgse.relation.certificate import gap_bound, gradient, make_feasible, violation
from vgse.relation.closed_form import closed_form
from vgse.relation.column_generation import column_generation
from vgse.relation.dual_active_set import dual_active_set
from vgse.relation.dual_newton import dual_newton
from vgse.relation.interior_point import interior_point
from vgse.relation.prepare import prepare
from vgse.relation.problem import Problem, check_unseen
from vgse.relation.relations import Relations

# An answer is accepted with its proven gap below this part of the objective (see `tolerance`) ...
GAP_TOLERANCE = 1e-9
# ... and the constraints kept to this.
VIOLATION_TOLERANCE = 1e-12
# From so many seen classes on, alpha = 0 answers are returned as a sparse matrix.
SPARSE_FROM = 200

# With this part of the closed form below alpha, and no ridge to speak of, few entries will be left off it.
_MANY_BOUNDS = 0.3
_WEAK_RIDGE = 1e-3

_Path = Callable[[Problem, np.ndarray], np.ndarray]


def relate(words_UW: np.ndarray, words_SW: np.ndarray, *, alpha: float = 0.0, ridge: float = 0.0) -> Relations:
    """Solves min_r 1/2 ||w - r^T W||^2 + (ridge/2) ||r||^2, alpha <= r <= 1, sum r = 1 for every unseen class.

    VGSE (CVPR 2022), section 3.3, the relation with similarity-matrix optimisation; the ridge is ours. Exact: every row
    carries a proven bound on its distance from the optimum. Where several r are optimal the one of least norm is
    taken (to a relative 1e-8), so equal seen classes share evenly and the order of classes does not matter.

    Args:
        words_UW: unseen word vectors (U, D).
        words_SW: seen word vectors (S, D).
        alpha: lower bound of every entry of r, in [-1, 0].
        ridge: weight of ||r||^2 / 2, in the squared units of the vectors.

    Raises:
        DataError: a vector holds NaN or infinity or is of a size beyond float64's squares (the row is named).
        ValueError: a setting out of range, or matrices that do not fit.
    """
    return relate_prepared(prepare(words_SW, alpha, ridge), words_UW)


def relate_prepared(problem: Problem, words_UW: np.ndarray) -> Relations:
    """`relate` for a prepared problem, so that chunks of unseen classes share the work on the seen ones."""
    words_UW = check_unseen(words_UW, problem.seen_SD.shape[1])
    unseen, seen = words_UW.shape[0], problem.seen
    keep_sparse = problem.alpha == 0.0 and seen >= SPARSE_FROM
    objective_U, gap_U = np.zeros(unseen), np.zeros(unseen)
    methods: list[str] = []
    parts = []
    # Blocks of about 4 MB, so that the passes over a block stay in the cache.
    rows = max(16, min(512, 2**19 // seen))
    for start in range(0, unseen, rows):
        block = slice(start, min(start + rows, unseen))
        r_BS, objective_U[block], gap_U[block], names = _solve_block(problem, problem.centre(words_UW[block]))
        parts.append(sparse.csr_matrix(r_BS) if keep_sparse else r_BS)
        methods += names
    if keep_sparse:
        r_US = sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, seen))
    else:
        r_US = np.concatenate(parts) if parts else np.zeros((0, seen))
    unit = problem.scale**2
    return Relations(r_US, objective_U * unit, gap_U * unit, methods)


def paths(problem: Problem) -> list[tuple[str, _Path]]:
    """The ways to solve this problem, the likeliest and fastest first; the last takes whatever is left."""
    if problem.seen == 1:
        return [("closed_form", _single)]
    last: list[tuple[str, _Path]] = [("dual_newton", dual_newton)]
    if problem.gram_SS is None:
        last.append(("fallback", _fallback))
    else:
        last += [("active_set", boxed), ("active_set", _loosened), ("fallback", _fallback)]
    if problem.alpha == 0.0:
        first = ("column_generation", column_generation) if problem.gram_SS is None else ("active_set", active_set)
        return [first, *last]
    if problem.gram_SS is None:
        return [("closed_form", closed_form), ("column_generation", _if_many_bounds), *last]
    return [("closed_form", closed_form), ("dual_active_set", dual_active_set), ("active_set", boxed_few), *last]


def tolerance(problem: Problem, unseen_UD: np.ndarray, objective_U: np.ndarray) -> np.ndarray:
    """The gap (U,) up to which an answer counts as exact: a part of its objective.

    Where the words are fitted exactly the objective is zero up to rounding and no part of it means anything; there the
    measure is a thousandth of the objective at the mean of the seen classes (about what rounding allows), and for an
    unseen class at that very mean a trace of the seen classes' own spread, which is 1 in the scaled problem.
    """
    at_mean_U = 0.5 * np.maximum((unseen_UD**2).sum(axis=1), 1e-12) + 0.5 * problem.ridge / problem.seen
    return GAP_TOLERANCE * np.maximum(objective_U, 1e-3 * at_mean_U)


def _solve_block(problem: Problem, unseen_UD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    (name, path), *others = paths(problem)
    r_US, objective_U, gap_U = certified(problem, unseen_UD, path(problem, unseen_UD))
    names = np.full(len(unseen_UD), name, dtype=object)
    # A comparison with NaN is false, so a row without an answer is neither accepted nor better than another.
    open_N = np.flatnonzero(~(gap_U <= tolerance(problem, unseen_UD, objective_U)))
    for name, path in others:
        if not open_N.size:
            break
        part_ND = unseen_UD[open_N]
        r_NS, objective_N, gap_N = certified(problem, part_ND, path(problem, part_ND))
        better_N = gap_N < np.where(np.isnan(gap_U[open_N]), np.inf, gap_U[open_N])
        taken_N = open_N[better_N]
        r_US[taken_N], objective_U[taken_N], gap_U[taken_N] = r_NS[better_N], objective_N[better_N], gap_N[better_N]
        names[taken_N] = name
        open_N = open_N[~(gap_N <= tolerance(problem, part_ND, objective_N))]
    assert not np.isnan(gap_U).any(), "a row ended without any answer"
    return r_US, objective_U, gap_U, list(names)


def certified(problem: Problem, unseen_UD: np.ndarray, r_US: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r made feasible, its objective and its gap; objective and gap are NaN where r is not an answer."""
    clear_U = (r_US.min(axis=1) > problem.alpha - 1e-6) & (r_US.max(axis=1) < 1.0 + 1e-6)
    if clear_U.all():
        return _certified(problem, unseen_UD, r_US)
    objective_U, gap_U = np.full(len(r_US), np.nan), np.full(len(r_US), np.nan)
    r_US[clear_U], objective_U[clear_U], gap_U[clear_U] = _certified(problem, unseen_UD[clear_U], r_US[clear_U])
    return r_US, objective_U, gap_U


def _certified(problem: Problem, unseen_UD: np.ndarray, r_US: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r_US = make_feasible(r_US, problem.alpha)
    objective_U, gradient_US = gradient(problem, unseen_UD, r_US)
    # No objective lies below ridge/2 ||1/S||^2: for exact fits the tighter of two bounds.
    gap_U = np.minimum(gap_bound(problem, r_US, gradient_US), objective_U - 0.5 * problem.ridge / problem.seen)
    kept_U = violation(r_US, problem.alpha) <= VIOLATION_TOLERANCE
    return r_US, objective_U, np.where(kept_U, np.maximum(gap_U, 0.0), np.nan)


def _single(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    return np.ones((unseen_UD.shape[0], 1))


def _if_many_bounds(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """Column generation where much of the closed form lies below alpha; elsewhere, or by a ridge, many will be free."""
    if problem.ridge > _WEAK_RIDGE:
        return np.full((len(unseen_UD), problem.seen), np.nan)
    r_US = closed_form(problem, unseen_UD)
    many_U = (r_US < problem.alpha).mean(axis=1) > _MANY_BOUNDS
    r_US[~many_U] = np.nan
    if many_U.any():
        r_US[many_U] = column_generation(problem, unseen_UD[many_U])
    return r_US


def _loosened(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """Where word vectors are dependent to within the tie ridge, being exact goes before how ties are settled."""
    return boxed(replace(problem, tie_ridge=1e-4 * problem.tie_ridge), unseen_UD)


def _fallback(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    loosened = replace(problem, tie_ridge=1e-4 * problem.tie_ridge)
    r_US = np.empty((unseen_UD.shape[0], problem.seen))
    for u, w_D in enumerate(unseen_UD):
        r_US[u] = interior_point(loosened, w_D, interior_point(problem, w_D))
    return r_US

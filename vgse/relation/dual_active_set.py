"""alpha < 0 with few active bounds: from the closed form, add the bounds it violates.

With N the inverse of the Hessian on sum r = 0, the answer with bounds A active is r = r_free + N[:, A] eta, where
eta >= 0 are the multipliers of r >= alpha (Goldfarb and Idnani, Mathematical Programming 27, 1983). The eta solve

    min over eta >= 0 of 1/2 eta.N.eta + (r_free - alpha).eta,

the problem of `active_set` without the sum, in as many unknowns as there are active bounds instead of free entries.
Upper bounds are left out: a row that then breaks r <= 1 is not an answer and goes to the next path.
"""

import numpy as np

from vgse.relation.active_set import block_solver
from vgse.relation.closed_form import free_minimiser
from vgse.relation.problem import Problem

_TOLERANCE = 1e-14
# Where more than this part of the closed form lies below alpha, or more bounds than this become active, there are
# cheaper ways; below this pivot the active rows of N are nearly dependent.
_FEW = 0.1
_MOST_ACTIVE = 256
_LEAST_PIVOT = 1e-7


def inverse_hessian(left_SK: np.ndarray, singular_K: np.ndarray, damping: float) -> tuple[np.ndarray, int]:
    """N (S, S), scaled to entries of about one, and how many bounds may be active before it turns near singular."""
    seen = left_SK.shape[0]
    outside = seen - 1 - singular_K.size
    inner_K = singular_K**2 + damping
    if outside <= 0:
        inverse_SS = (left_SK * (inner_K.min(initial=np.inf) / inner_K)) @ left_SK.T
        return inverse_SS, seen - 1
    # damping * N: one where only the damping holds r, and nearly zero where the word vectors do.
    inverse_SS = (left_SK * (damping / inner_K - 1.0)) @ left_SK.T
    inverse_SS -= 1.0 / seen
    inverse_SS[np.diag_indices(seen)] += 1.0
    return inverse_SS, outside if damping < 1e-3 * inner_K.min(initial=np.inf) else seen - 1


def dual_active_set(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
    """r (U, S); rows that could not be solved this way are NaN."""
    assert problem.inverse_SS is not None
    unseen, seen, alpha = unseen_UD.shape[0], problem.seen, problem.alpha
    r_US = free_minimiser(problem, unseen_UD)
    few_U = (r_US < alpha).sum(axis=1) <= max(4, _FEW * seen)
    tried_NS, answer_US = r_US[few_U], np.full((unseen, seen), np.nan)
    count = tried_NS.shape[0]
    eta_NS, state_NS = np.zeros((count, seen)), np.full((count, seen), -1, np.int8)
    tolerance_N, failed_N = np.full(count, _TOLERANCE), np.zeros(count, bool)
    for second_round in (False, True):
        slope_NS = tried_NS - alpha
        if second_round:
            slope_NS = free_minimiser(problem, unseen_UD[few_U], tried_NS) - alpha + eta_NS @ problem.inverse_SS
        codes_N = block_solver()(
            problem.inverse_SS, 0.0, False, 0.0, np.inf, 0.0, _LEAST_PIVOT,
            slope_NS, eta_NS, state_NS, tolerance_N, min(problem.most_active, _MOST_ACTIVE),
        )  # fmt: skip
        failed_N |= codes_N != 0
        tried_NS = np.where(eta_NS > 0.0, alpha, slope_NS + alpha)
    tried_NS[failed_N] = np.nan
    answer_US[few_U] = tried_NS
    return answer_US

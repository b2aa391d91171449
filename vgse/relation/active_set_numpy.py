"""`minimise_block` of active_set_kernel in NumPy, for machines without Numba: the same method, some ten times slower.

The free block is factorised anew by LAPACK instead of being updated, which at these sizes NumPy does faster.
"""

import numpy as np
from scipy import linalg

_FIRST, _MOST, _FRACTION, _MOST_PROXIMAL = 4, 64, 0.4, 12


def minimise_block(
    gram: np.ndarray,
    damping: float,
    balanced: bool,
    low: float,
    high: float,
    tie: float,
    least_pivot: float,
    slope_US: np.ndarray,
    r_US: np.ndarray,
    state_US: np.ndarray,
    tolerance_U: np.ndarray,
    most_free: int,
) -> np.ndarray:
    """See the compiled twin: r, slope and state are changed in place, the codes (U,) returned."""
    codes_U = np.zeros(r_US.shape[0], np.int64)
    for u in range(r_US.shape[0]):
        shared = (gram, damping, balanced, low, high, least_pivot, slope_US[u], r_US[u], state_US[u], tolerance_U[u])
        centre = np.zeros(r_US.shape[1])
        for _ in range(_MOST_PROXIMAL):
            codes_U[u] = _minimise(*shared, most_free)
            if codes_U[u] != 0 or tie == 0.0:
                break
            shift = tie * (r_US[u] - centre)
            slope_US[u] -= shift
            centre = r_US[u].copy()
            if np.abs(shift).sum() <= 0.1 * tolerance_U[u]:
                break
    return codes_U


def _minimise(gram, damping, balanced, low, high, least_pivot, slope, r, state, tolerance, most_free) -> int:
    stalled = False
    for _ in range(50 + 5 * r.size):
        before = r.copy()
        mu, fits = _to_minimiser(gram, damping, balanced, low, high, least_pivot, slope, r, state)
        if not fits:
            return 2
        moved = np.flatnonzero(r != before)
        change = r[moved] - before[moved]
        slope += change @ gram[moved]
        slope[moved] += damping * change
        lower, upper = state == -1, state == 1
        count = int(np.count_nonzero(state == 0))
        if count == 0 and balanced:
            below, above = slope[lower].min(initial=np.inf), slope[upper].max(initial=-np.inf)
            mu = 0.5 * (below + above) if np.isfinite(below) and np.isfinite(above) else 0.0
        want = np.where(lower, mu - slope, np.where(upper, slope - mu, 0.0))
        worst = want.max()
        if not worst > tolerance:
            return 0
        most = 1 if stalled else max(_FIRST, min(_MOST, count))
        picked = np.argsort(-want, kind="stable")[:most]
        picked = picked[want[picked] >= max(_FRACTION * worst, tolerance)]
        if count == 0 and balanced and picked.size == 1:
            picked = np.array([np.argmin(np.where(lower, slope, np.inf)), np.argmax(np.where(upper, slope, -np.inf))])
        if count + picked.size > most_free:
            return 1
        stalled = float(np.abs(change).sum()) <= 1e-14
        state[picked] = 0
    return 2


def _to_minimiser(gram, damping, balanced, low, high, least_pivot, slope, r, state) -> tuple[float, bool]:
    free = np.flatnonzero(state == 0)
    slope_free = slope[free]
    mu = 0.0
    while free.size:
        block = gram[np.ix_(free, free)]
        block[np.diag_indices(free.size)] += damping
        factor, failed = linalg.lapack.dpotrf(block, lower=1)
        if failed or not factor.diagonal().min() ** 2 > least_pivot:
            return mu, False
        both, _ = linalg.lapack.dpotrs(factor, np.column_stack([slope_free, np.ones(free.size)]), lower=1)
        mu = float(both[:, 0].sum() / both[:, 1].sum()) if balanced else 0.0
        step = mu * both[:, 1] - both[:, 0]
        room = np.where(step < 0, low - r[free], high - r[free])
        with np.errstate(divide="ignore", invalid="ignore"):
            lengths = np.where(step != 0, room / step, np.inf)
        blocking = int(np.argmin(lengths))
        length = min(1.0, float(lengths[blocking]))
        r[free] += length * step
        slope_free += length * (mu - slope_free)
        if length >= 1.0:
            break
        state[free[blocking]] = -1 if step[blocking] < 0 else 1
        r[free[blocking]] = low if step[blocking] < 0 else high
        free, slope_free = np.delete(free, blocking), np.delete(slope_free, blocking)
    return mu, True

"""The compiled inner loop of the primal active set; `active_set` holds the method's description and the NumPy twin.

Only plain loops over float64 arrays, so that Numba turns every function into machine code. Importing this module needs
Numba.
"""

import numpy as np

from vgse.machine_code import compiled

# At least so many entries are freed per round, and at most as many as are free already; only those whose wish to
# leave their bound is at least this part of the strongest one.
_FIRST = 4
_FRACTION = 0.4
# Proximal rounds per class at most; two are enough unless the word vectors are nearly dependent.
_MOST_PROXIMAL = 12


# Sums may be reordered (that is what makes them fast), but NaN and infinity keep their meaning.
_compile = compiled(fastmath={"reassoc", "contract", "nsz", "arcp"})


@_compile
def _dot(a, b, n):
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@_compile
def _append(factor, free, count, index, gram, damping, least_pivot):
    """Adds one row to the Cholesky factor of the free block. False where the pivot is too small to trust."""
    row = factor[count]
    source = gram[index]
    for j in range(count):
        row[j] = (source[free[j]] - _dot(factor[j], row, j)) / factor[j, j]
    pivot = source[index] + damping - _dot(row, row, count)
    if not pivot > least_pivot:
        return False
    row[count] = np.sqrt(pivot)
    free[count] = index
    return True


@_compile
def _delete(factor, free, count, position, column):
    """Removes one row of the free block: the rows below move up and take a rank-one update."""
    trailing = count - position - 1
    for i in range(trailing):
        source, target = factor[position + 1 + i], factor[position + i]
        column[i] = source[position]
        for j in range(position):
            target[j] = source[j]
        for j in range(i + 1):
            target[position + j] = source[position + 1 + j]
        free[position + i] = free[position + 1 + i]
    for j in range(trailing):
        pivot = factor[position + j, position + j]
        norm = np.sqrt(pivot * pivot + column[j] * column[j])
        cosine, sine = norm / pivot, column[j] / pivot
        factor[position + j, position + j] = norm
        for i in range(j + 1, trailing):
            value = (factor[position + i, position + j] + sine * column[i]) / cosine
            column[i] = cosine * column[i] - sine * value
            factor[position + i, position + j] = value


@_compile
def _direction(factor, count, slope, ones, step, balanced):
    """step = direction to the minimiser on the free block, under sum step = 0 if `balanced`; returns its mu."""
    top, bottom = 0.0, 0.0
    for i in range(count):
        row = factor[i]
        step[i] = (slope[i] - _dot(row, step, i)) / row[i]
        ones[i] = (1.0 - _dot(row, ones, i)) / row[i]
        top += step[i] * ones[i]
        bottom += ones[i] * ones[i]
    mu = top / bottom if balanced else 0.0
    for i in range(count):
        step[i] = mu * ones[i] - step[i]
    for i in range(count - 1, -1, -1):
        row = factor[i]
        value = step[i] / row[i]
        step[i] = value
        for j in range(i):
            step[j] -= row[j] * value
    return mu


@_compile
def _pick(slope, state, mu, tolerance, most, fraction, picked):
    """The indices that most want to leave their bound: at most `most`, each above a fraction of the largest."""
    worst = 0.0
    for i in range(slope.size):
        want = 0.0
        if state[i] < 0:
            want = mu - slope[i]
        elif state[i] > 0:
            want = slope[i] - mu
        worst = max(worst, want)
    if not worst > tolerance:
        return 0
    least = max(fraction * worst, tolerance)
    count = 0
    values = np.empty(most)
    for i in range(slope.size):
        want = 0.0
        if state[i] < 0:
            want = mu - slope[i]
        elif state[i] > 0:
            want = slope[i] - mu
        if want >= least and (count < most or want > values[count - 1]):
            place = min(count, most - 1)
            while place > 0 and values[place - 1] < want:
                values[place] = values[place - 1]
                picked[place] = picked[place - 1]
                place -= 1
            values[place] = want
            picked[place] = i
            count = min(count + 1, most)
    return count


@_compile
def _to_minimiser(factor, free, count, low, high, balanced, r, state, slope_free, ones, step, column):
    """Moves r to the minimiser on its face, dropping what meets a bound on the way. Returns the count left and mu."""
    mu = 0.0
    while count > 0:
        mu = _direction(factor, count, slope_free, ones, step, balanced)
        length, blocking = 1.0, -1
        for i in range(count):
            value = r[free[i]]
            if step[i] < 0.0 and value + length * step[i] < low:
                length, blocking = (low - value) / step[i], i
            elif step[i] > 0.0 and value + length * step[i] > high:
                length, blocking = (high - value) / step[i], i
        for i in range(count):
            r[free[i]] += length * step[i]
            # The step leads to slope = mu on the whole face, so part of it leads part of the way.
            slope_free[i] += length * (mu - slope_free[i])
        if blocking < 0:
            break
        index = free[blocking]
        state[index] = -1 if step[blocking] < 0.0 else 1
        r[index] = low if step[blocking] < 0.0 else high
        for i in range(blocking, count - 1):
            slope_free[i] = slope_free[i + 1]
        _delete(factor, free, count, blocking, column)
        count -= 1
    return count, mu


@_compile
def minimise(gram, damping, balanced, low, high, least_pivot, slope, r, state, tolerance, factor, work, index):
    """Minimises 1/2 r.(gram + damping I).r - b.r from the feasible r given, in place.

    `slope` is the gradient at r on entry and on return; `state` is -1 at the lower bound, 0 free, 1 at the upper one,
    2 held where it is. The workspace bounds the number of free entries. Returns 0 when done, 1 when the free set
    outgrew the workspace, 2 when the rounds ran out or the factorisation broke down.
    """
    size, most_free = r.size, factor.shape[0]
    ones, step, slope_free, column, start = work[0], work[1], work[2], work[3], work[4]
    free, moved, picked = index[0], index[1], index[2]
    count = 0
    for i in range(size):
        if state[i] == 0:
            if count == most_free:
                return 1
            if not _append(factor, free, count, i, gram, damping, least_pivot):
                return 2
            count += 1
    stalled = False
    for _ in range(50 + 5 * size):
        moving = count
        for i in range(count):
            moved[i] = free[i]
            start[i] = r[free[i]]
            slope_free[i] = slope[free[i]]
        count, mu = _to_minimiser(factor, free, count, low, high, balanced, r, state, slope_free, ones, step, column)
        progress = 0.0
        for j in range(moving):
            change = r[moved[j]] - start[j]
            if change != 0.0:
                progress += abs(change)
                row = gram[moved[j]]
                for i in range(size):
                    slope[i] += change * row[i]
                slope[moved[j]] += damping * change
        if count == 0 and balanced:
            mu = _middle(slope, state)
        most = 1 if stalled else max(_FIRST, min(picked.size, count))
        adding = _pick(slope, state, mu, tolerance, min(most, picked.size), _FRACTION, picked)
        if adding == 0:
            return 0
        if count == 0 and balanced and adding == 1:
            adding = _pair(slope, state, picked)
        stalled = progress <= 1e-14
        for j in range(adding):
            if count == most_free:
                return 1
            if not _append(factor, free, count, picked[j], gram, damping, least_pivot):
                if j == 0:
                    return 2
                break
            state[picked[j]] = 0
            count += 1
    return 2


@_compile
def _middle(slope, state):
    """With every entry on a bound any mu between the two sides proves optimality: the middle."""
    below, above = np.inf, -np.inf
    for i in range(slope.size):
        if state[i] < 0:
            below = min(below, slope[i])
        elif state[i] == 1:
            above = max(above, slope[i])
    return 0.5 * (below + above) if np.isfinite(below) and np.isfinite(above) else 0.0


@_compile
def _pair(slope, state, picked):
    """With nothing free one entry alone cannot move: the two that most want to move against each other."""
    best_up, best_down = -1, -1
    for i in range(slope.size):
        if state[i] < 0 and (best_up < 0 or slope[i] < slope[best_up]):
            best_up = i
        if state[i] == 1 and (best_down < 0 or slope[i] > slope[best_down]):
            best_down = i
    picked[0], picked[1] = best_up, best_down
    return 2


@_compile
def minimise_block(
    gram, damping, balanced, low, high, tie, least_pivot, slope_US, r_US, state_US, tolerance_U, most_free
):
    """`minimise` for every row in place, then again with the proximal term centred on the last answer until it stays.

    Returns the codes (U,).
    """
    rows, size = r_US.shape
    codes = np.zeros(rows, np.int64)
    factor, work = np.empty((most_free, most_free)), np.empty((5, most_free))
    index, centre = np.empty((3, most_free), np.int64), np.empty(size)
    for u in range(rows):
        slope, r, state = slope_US[u], r_US[u], state_US[u]
        code = 0
        for k in range(size):
            centre[k] = 0.0
        for _ in range(_MOST_PROXIMAL):
            code = minimise(
                gram, damping, balanced, low, high, least_pivot, slope, r, state, tolerance_U[u], factor, work, index
            )
            if code != 0 or tie == 0.0:
                break
            drift = 0.0
            for k in range(size):
                drift += tie * abs(r[k] - centre[k])
                slope[k] -= tie * (r[k] - centre[k])
                centre[k] = r[k]
            if drift <= 0.1 * tolerance_U[u]:
                break
        codes[u] = code
    return codes

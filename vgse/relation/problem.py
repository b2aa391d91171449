"""The relation problem: checks, centring and the one global scale.

    min_r 1/2 ||w - r^T W||^2 + (ridge/2) ||r||^2   subject to   alpha <= r_i <= 1,   sum_i r_i = 1

(VGSE, section 3.3, equation for r with SMO; the ridge is ours.) Because r sums to one, the same vector may be taken
off w and off every row of W, and scaling all vectors by c scales the objective by c^2 when the ridge is scaled with
it. Everything in this room therefore works on the *scaled problem*: rows centred on the seen mean, one global scale.
"""

from dataclasses import dataclass

import numpy as np

from vgse.errors import DataError

# The strength of the proximal term that settles ties, relative to the mean squared norm of the centred seen vectors.
# It makes every answer unique and splits duplicates evenly; much below it rounding decides.
TIE_RIDGE = 1e-8
# Unseen vectors this many times the seen ones' spread are refused; their squares must stay within float64.
_FARTHEST = 1e75


@dataclass(frozen=True)
class Problem:
    """What all unseen classes share. Plain arrays: it pickles, and goes to workers once.

    Attributes:
        seen_SD: centred and scaled seen word vectors, float64.
        mean_D: what was taken off every vector, in the caller's units.
        scale: what centred vectors were divided by; objectives scale with its square.
        alpha: lower bound of every r_i.
        ridge: the caller's ridge in the scaled problem, ridge / scale^2.
        tie_ridge: strength of the proximal term in the scaled problem.
        gram_SS: seen_SD @ seen_SD.T where the number of seen classes is small enough to keep it, else None.
        left_SK, singular_K, right_KD: thin SVD of seen_SD where alpha < 0, else None.
        inverse_SS, most_active: see `dual_active_set.inverse_hessian`, where alpha < 0 and S is small enough.
    """

    seen_SD: np.ndarray
    mean_D: np.ndarray
    scale: float
    alpha: float
    ridge: float
    tie_ridge: float
    gram_SS: np.ndarray | None = None
    left_SK: np.ndarray | None = None
    singular_K: np.ndarray | None = None
    right_KD: np.ndarray | None = None
    inverse_SS: np.ndarray | None = None
    most_active: int = 0

    @property
    def seen(self) -> int:
        """S, the number of seen classes."""
        return int(self.seen_SD.shape[0])

    @property
    def half_squares_S(self) -> np.ndarray:
        """Half the squared norms of the seen vectors: with -x.w the ranking by distance from w."""
        return 0.5 * np.einsum("sd,sd->s", self.seen_SD, self.seen_SD)

    @property
    def factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The thin SVD, where the problem was prepared for alpha < 0."""
        assert self.left_SK is not None
        assert self.singular_K is not None
        assert self.right_KD is not None
        return self.left_SK, self.singular_K, self.right_KD

    def centre(self, words_UW: np.ndarray) -> np.ndarray:
        """Unseen vectors (U, D) of the scaled problem; DataError where one is beyond any sensible size against it."""
        # Divided before the difference is taken, so that large vectors do not overflow on the way.
        with np.errstate(over="ignore"):
            unseen_UD = words_UW / self.scale - self.mean_D / self.scale
        far = np.flatnonzero(~(np.abs(unseen_UD) < _FARTHEST).all(axis=1))
        if far.size:
            raise DataError(
                f"words_UW: row {far[0]} is more than {_FARTHEST:.0e} times farther out than the seen word vectors",
                "check that seen and unseen word vectors come from the same file",
            )
        return unseen_UD


def check_settings(alpha: float, ridge: float) -> tuple[float, float]:
    """The settings as floats, or ValueError naming the field."""
    if not -1.0 <= alpha <= 0.0:
        raise ValueError(f"alpha must lie in [-1, 0], got {alpha!r}")
    if not 0.0 <= ridge < np.inf:
        raise ValueError(f"ridge must be a finite number >= 0, got {ridge!r}")
    return float(alpha), float(ridge)


def check_matrix(words: np.ndarray, name: str) -> np.ndarray:
    """The matrix in float64, or an error naming it and the first bad row."""
    words = np.asarray(words)
    if words.ndim != 2 or words.shape[1] == 0:
        raise ValueError(f"{name} must be a matrix of one word vector per row, got shape {words.shape}")
    if words.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got {words.dtype}")
    words = words.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(words).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name}: row {bad[0]} holds NaN or infinity ({bad.size} such row{'s' if bad.size > 1 else ''} in all)",
            "mend or leave out these word vectors",
        )
    return words


def check_unseen(words_UW: np.ndarray, width: int) -> np.ndarray:
    """The unseen vectors in float64, of the width of the seen ones."""
    words_UW = check_matrix(words_UW, "words_UW")
    if words_UW.shape[1] != width:
        raise ValueError(
            f"words_UW has {words_UW.shape[1]} columns but words_SW has {width}: the same words are needed"
        )
    return words_UW

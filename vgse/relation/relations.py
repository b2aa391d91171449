"""The answer of this room."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Relations:
    """How each unseen class is put together from the seen ones.

    Attributes:
        r_US: (U, S) float64, in the order of the seen vectors; CSR where alpha == 0 and there are hundreds of them.
        objective_U: (U,) the problem's objective as the caller stated it (own ridge, own units).
        gap_U: (U,) proven upper bound on objective - optimum, same units; NaN where nothing was minimised.
        method_U: the path taken per class.
    """

    r_US: np.ndarray | sparse.csr_matrix
    objective_U: np.ndarray
    gap_U: np.ndarray
    method_U: list[str]

    def dense(self) -> np.ndarray:
        """r as a plain (U, S) array."""
        return self.r_US if isinstance(self.r_US, np.ndarray) else self.r_US.toarray()

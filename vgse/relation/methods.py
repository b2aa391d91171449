"""The ways to a relation by name, prepared once on the seen classes and applied to chunks of unseen ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from vgse.relation.kernel_ridge import KernelRidge
from vgse.relation.prepare import prepare
from vgse.relation.problem import Problem
from vgse.relation.relations import Relations
from vgse.relation.solve import relate_prepared
from vgse.relation.weighted_average import weighted_average

METHODS = ("simplex", "weighted_average", "kernel_ridge")


@dataclass(frozen=True)
class RelationSettings:
    """What the methods are told: see `relate`, `weighted_average` and `kernel_ridge` for each.

    `method` is one of `METHODS`, or `mean`: the mean of r over all of them, on all columns together and, where the
    columns come from several sources, on each source by itself.
    """

    method: str = "simplex"
    alpha: float = 0.0
    ridge: float = 0.0
    neighbours: int = 5
    eta: float = 1.0
    kernel_ridge: float = 0.1


class PreparedRelation:
    """A method, ready for chunks of unseen classes. Plain arrays: it pickles, and goes to workers once.

    Args:
        seen_SD: class vectors of the seen classes, the columns of all sources side by side.
        settings: method and settings.
        blocks: the columns of each source; only `mean` looks at them.
    """

    def __init__(self, seen_SD: np.ndarray, settings: RelationSettings, blocks: Sequence[slice] = ()) -> None:
        self._settings, self._seen_SD = settings, np.asarray(seen_SD, np.float64)
        several = settings.method == "mean"
        columns = [slice(None), *(blocks if several and len(blocks) > 1 else ())]
        self._parts = [self._part(method, c) for c in columns for method in (METHODS if several else [settings.method])]

    def __call__(self, unseen_UD: np.ndarray) -> Relations:
        """The relation of every unseen class (rows of class vectors, the same columns)."""
        first, *others = self._parts
        if not others:
            return first(unseen_UD, self._settings)
        r_US, count = first(unseen_UD, self._settings).dense().copy(), len(self._parts)
        for part in others:
            r_US += part(unseen_UD, self._settings).dense()
        r_US /= count
        objective_U = 0.5 * ((unseen_UD - r_US @ self._seen_SD) ** 2).sum(axis=1)
        unseen = len(unseen_UD)
        return Relations(r_US, objective_U, np.full(unseen, np.nan), [f"mean of {count}"] * unseen)

    def _part(self, method: str, columns: slice) -> "_Part":
        seen_SD = self._seen_SD[:, columns]
        # A source by itself is brought back to the scale that the ridge and eta are meant for.
        scale = 1.0 if columns == slice(None) else float(np.sqrt((seen_SD**2).sum(axis=1).mean())) or 1.0
        seen_SD = seen_SD / scale
        settings = self._settings
        prepared: Problem | KernelRidge | np.ndarray = seen_SD
        if method == "simplex":
            prepared = prepare(seen_SD, settings.alpha, settings.ridge)
        elif method == "kernel_ridge":
            prepared = KernelRidge.of(seen_SD, settings.kernel_ridge)
        return _Part(columns, scale, prepared)


@dataclass(frozen=True)
class _Part:
    """One method on the columns of one source, or on all."""

    columns: slice
    scale: float
    prepared: Problem | KernelRidge | np.ndarray

    def __call__(self, unseen_UD: np.ndarray, settings: RelationSettings) -> Relations:
        unseen_UD = unseen_UD[:, self.columns] / self.scale
        if isinstance(self.prepared, Problem):
            return relate_prepared(self.prepared, unseen_UD)
        if isinstance(self.prepared, KernelRidge):
            return self.prepared(unseen_UD)
        return weighted_average(unseen_UD, self.prepared, neighbours=settings.neighbours, eta=settings.eta)


def joined(parts: Sequence[Relations]) -> Relations:
    """The relations of several chunks, in order."""
    if all(sparse.issparse(part.r_US) for part in parts):
        r_US = sparse.vstack([part.r_US for part in parts], format="csr")
    else:
        r_US = np.concatenate([part.dense() for part in parts])
    return Relations(
        r_US,
        np.concatenate([part.objective_U for part in parts]),
        np.concatenate([part.gap_U for part in parts]),
        [path for part in parts for path in part.method_U],
    )

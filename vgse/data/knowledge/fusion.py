"""Several sources as one vector per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from vgse.data.knowledge.source import Source, check_weights
from vgse.data.words import prepare_words
from vgse.errors import DataError

_NEIGHBOURS = 5
_DECAY = 5.0
_BLOCK = 1024


def fuse(
    sources: Sequence[Source],
    weights: Mapping[str, float],
    seen_C: np.ndarray,
    form: Literal["centred", "l2", "raw"] = "centred",
) -> np.ndarray:
    """One vector per class: the sources' vectors side by side, each weighted.

    Each source is centred on the mean of the seen classes that it knows and L2-normalised (`centred`), only normalised
    (`l2`), or taken as it is (`raw`), then multiplied by weight / sqrt(sum of weights^2), so that a class has length 1
    unless `raw`. Where a source does not know a class, the mean over its 5 nearest seen classes that the source does
    know stands in, weighted by exp(-5 d) and normalised like the rest; d is the distance by the centred sources that
    know both classes. Where no such class shares a source with it, zeros (the seen mean) stand in. Unseen classes
    influence nothing but their own rows. With the names alone this is `words.prepare_words`, to the last bit.

    Args:
        sources: what classes (C,) are known by.
        weights: by source name, 1 where not given; a source of weight 0 is left out.
        seen_C: which classes are seen.
        form: as in `words.prepare_words`.

    Returns:
        (C, sum of D) float64.

    Raises:
        ConfigError: see `check_weights`.
        DataError: a class that no source knows, or a source that knows no seen class.
    """
    check_weights(weights, sources)
    used = [source for source in sources if weights.get(source.name, 1.0) > 0]
    weight_B = np.array([weights.get(source.name, 1.0) for source in used], np.float64)
    weight_B = weight_B / np.linalg.norm(weight_B)
    known_BC = np.stack([source.known_C for source in used])
    _check_known(used, known_BC, seen_C)
    blocks = [_prepared(source, seen_C, form) for source in used]
    if not known_BC.all():
        near = blocks if form == "centred" else [_prepared(source, seen_C, "centred") for source in used]
        blocks = _filled(blocks, _Nearness(near, known_BC, weight_B, seen_C), form)
    return np.concatenate([weight * block for weight, block in zip(weight_B, blocks, strict=True)], axis=1)


def _check_known(sources: Sequence[Source], known_BC: np.ndarray, seen_C: np.ndarray) -> None:
    names = ", ".join(source.name for source in sources)
    lost = np.flatnonzero(~known_BC.any(axis=0))
    if len(lost):
        raise DataError(
            f"knowledge: {len(lost)} class(es) are known by none of the sources ({names}); the first is number "
            f"{lost[0] + 1} of the classes",
            "add their names as a source (knowledge.names: true), or texts of them",
        )
    for source in sources:
        if not (source.known_C & seen_C).any():
            raise DataError(
                f"knowledge: {source.name} knows no seen class, so unseen classes cannot be compared by it",
                f"give it rows for seen classes, or knowledge.weights.{source.name} 0",
            )


def _prepared(source: Source, seen_C: np.ndarray, form: Literal["centred", "l2", "raw"]) -> np.ndarray:
    block_CD = prepare_words(source.vectors_CD, seen_C & source.known_C, form)
    return block_CD if source.known_C.all() else np.where(source.known_C[:, None], block_CD, 0.0)


class _Nearness:
    """Distances from any class to the seen ones: the root of the weighted mean of squares over the sources that know
    both, infinite where none does.

    Args:
        blocks: the centred sources, (C, D) each, zero where not known.
        known_BC: which source knows which class.
        weight_B: the sources' weights.
        seen_C: which classes are seen.
    """

    def __init__(
        self, blocks: Sequence[np.ndarray], known_BC: np.ndarray, weight_B: np.ndarray, seen_C: np.ndarray
    ) -> None:
        self.known_BC, self.seen_S = known_BC, np.flatnonzero(seen_C)
        # Unknown rows are zero, so that one product of all sources side by side counts just the shared ones.
        self._points_CD = np.concatenate([w * block for w, block in zip(weight_B, blocks, strict=True)], axis=1)
        self._points_SD = self._points_CD[self.seen_S]
        self._squares_BC = weight_B[:, None] ** 2 * np.stack([(block**2).sum(axis=1) for block in blocks])
        self._weights_BC = weight_B[:, None] ** 2 * known_BC

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """(M, S) for the classes `rows`."""
        known_BC, seen_S = self.known_BC.astype(np.float64), self.seen_S
        square_MS = -2.0 * self._points_CD[rows] @ self._points_SD.T
        square_MS += self._squares_BC[:, rows].T @ known_BC[:, seen_S]
        square_MS += known_BC[:, rows].T @ self._squares_BC[:, seen_S]
        shared_MS = self._weights_BC[:, rows].T @ known_BC[:, seen_S]
        mean_MS = np.maximum(square_MS, 0.0) / np.where(shared_MS > 0, shared_MS, 1.0)
        return np.where(shared_MS > 0, np.sqrt(mean_MS), np.inf)


def _filled(
    blocks: Sequence[np.ndarray], nearness: _Nearness, form: Literal["centred", "l2", "raw"]
) -> list[np.ndarray]:
    """The blocks with rows for the unknown; all from what is known, so the order of the sources does not matter."""
    filled = [block.copy() for block in blocks]
    lacking = np.flatnonzero(~nearness.known_BC.all(axis=0))
    for start in range(0, len(lacking), _BLOCK):
        rows = lacking[start : start + _BLOCK]
        distance_MS = nearness.distances(rows)
        for known_C, block_CD, filled_CD in zip(nearness.known_BC, blocks, filled, strict=True):
            here, candidates = ~known_C[rows], known_C[nearness.seen_S]
            if here.any():
                means = _nearest_means(distance_MS[np.ix_(here, candidates)], block_CD[nearness.seen_S[candidates]])
                filled_CD[rows[here]] = means if form == "raw" else prepare_words(means, candidates, "l2")
    return filled


def _nearest_means(distance_MN: np.ndarray, block_ND: np.ndarray) -> np.ndarray:
    """Means (M, D) of the nearest rows, weighted by exp(-5 d); zeros where all are infinitely far."""
    count = min(_NEIGHBOURS, distance_MN.shape[1])
    order_MK = np.argpartition(distance_MN, count - 1, axis=1)[:, :count]
    nearest_MK = np.take_along_axis(distance_MN, order_MK, axis=1)
    # Taking off the smallest distance changes no share and keeps exp from underflowing.
    first_M1 = nearest_MK.min(axis=1, keepdims=True)
    share_MK = np.exp(-_DECAY * (nearest_MK - np.where(np.isfinite(first_M1), first_M1, 0.0)))
    share_MK /= np.maximum(share_MK.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.einsum("mk,mkd->md", share_MK, block_ND[order_MK])

"""From scores to T1, u, s and H: four numbers per image, and calibrated stacking by one sorted sweep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vgse.errors import DataError
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.metrics import Figures, class_weights, harmonic_mean, per_class_accuracy

# Scores held at a time (64 MB of float32), whatever the number of classes.
_SCORES_AT_ONCE = 2**24


@dataclass(frozen=True)
class TopScores:
    """What T1 and calibrated GZSL need of N images' scores for all classes.

    Attributes:
        best_seen_score, best_unseen_score: (N,) float32.
        best_seen, best_unseen: (N,) class numbers.
    """

    best_seen_score: np.ndarray
    best_seen: np.ndarray
    best_unseen_score: np.ndarray
    best_unseen: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """How far the best seen class leads, (N,) float64."""
        return self.best_seen_score.astype(np.float64) - self.best_unseen_score

    def predicted(self, constant: float) -> np.ndarray:
        """Class with the best score after `constant` is taken from every seen class's score (N,)."""
        return np.where(self.margins > constant, self.best_seen, self.best_unseen)

    @classmethod
    def joined(cls, parts: Iterable[TopScores]) -> TopScores:
        """The top scores of several batches of images, in their order."""
        columns = zip(
            *((p.best_seen_score, p.best_seen, p.best_unseen_score, p.best_unseen) for p in parts), strict=True
        )
        return cls(*(np.concatenate(column) for column in columns))


def top_of_queries(queries_BK: np.ndarray, embeddings_CK: np.ndarray, seen_C: np.ndarray) -> TopScores:
    """Top scores of queries (images already multiplied with V) against class embeddings.

    Raises:
        DataError: a score is not finite.
    """
    best: list[np.ndarray] = []
    embeddings_CK = np.asarray(embeddings_CK, np.float32)
    for side_C in (seen_C, ~seen_C):
        classes, side_K = np.flatnonzero(side_C), np.ascontiguousarray(embeddings_CK[side_C].T)
        number, score = np.empty(len(queries_BK), np.int64), np.empty(len(queries_BK), np.float32)
        for rows in chunks(len(queries_BK), max(1, _SCORES_AT_ONCE // len(classes))):
            scores_BC = queries_BK[rows] @ side_K
            first = scores_BC.argmax(axis=1)
            number[rows], score[rows] = classes[first], scores_BC[np.arange(len(first)), first]
        if not np.isfinite(score).all():
            raise DataError("the scores of some images are not finite", "check the features and the class embeddings")
        best += [score, number]
    return TopScores(*best)


def top_scores(
    features_NF: np.ndarray,
    V_FK: np.ndarray,
    embeddings_CK: np.ndarray,
    seen_C: np.ndarray,
    chunk: int = 8192,
    feature_map: FeatureMap | None = None,
) -> TopScores:
    """The best seen and the best unseen class of every image under the score x^T V e.

    Args:
        features_NF: image features; rows are read in chunks.
        V_FK: the compatibility matrix.
        embeddings_CK: class embeddings of all classes.
        seen_C: which classes are seen, bool; both kinds must occur.
        chunk: images at a time.
        feature_map: applied to the features first.

    Raises:
        DataError: a score is not finite.
    """
    feature_map = feature_map or FeatureMap()
    left_FK = np.asarray(V_FK, np.float32)
    return TopScores.joined(
        top_of_queries(feature_map(features_NF[rows]) @ left_FK, embeddings_CK, seen_C)
        for rows in chunks(len(features_NF), chunk)
    )


def zsl_accuracy(top_unseen_images: TopScores, labels_unseen_N: np.ndarray) -> float:
    """T1: mean per-class top-1 of unseen classes' images among unseen classes."""
    return per_class_accuracy(top_unseen_images.best_unseen, labels_unseen_N, np.unique(labels_unseen_N))


def calibrate(
    top_seen_images: TopScores, labels_seen_N: np.ndarray, top_unseen_images: TopScores, labels_unseen_N: np.ndarray
) -> float:
    """The constant for calibrated stacking with the highest H on these images, exact over all constants.

    Chao et al., "An empirical study and analysis of generalized zero-shot learning" (ECCV 2016): the constant is taken
    from every seen class's score. An image moves from its best seen to its best unseen class when the constant passes
    its margin, so H changes only at the margins of images that one of the two gets right: one sorted sweep.

    Args:
        top_seen_images, labels_seen_N: images of seen classes with their class numbers.
        top_unseen_images, labels_unseen_N: images of unseen classes.

    Returns:
        The middle of the first interval of constants that reaches the highest H (its inner end where it is unbounded).
    """
    weight_s = class_weights(labels_seen_N, labels_seen_N) * (top_seen_images.best_seen == labels_seen_N)
    weight_u = class_weights(labels_unseen_N, labels_unseen_N) * (top_unseen_images.best_unseen == labels_unseen_N)
    margins = np.concatenate([top_seen_images.margins, top_unseen_images.margins])
    gain_u = np.concatenate([np.zeros_like(weight_s), weight_u])
    loss_s = np.concatenate([weight_s, np.zeros_like(weight_u)])
    counts = (gain_u > 0) | (loss_s > 0)
    if not counts.any():
        return 0.0
    levels, level_of = np.unique(margins[counts], return_inverse=True)
    # u and s with the constant at each level: an image at the level is given to its best unseen class.
    u = np.cumsum(np.bincount(level_of, gain_u[counts]))
    s = weight_s.sum() - np.cumsum(np.bincount(level_of, loss_s[counts]))
    s = np.maximum(s, 0.0)
    best = int(np.argmax(np.where(u + s > 0, 2 * u * s / np.where(u + s > 0, u + s, 1.0), 0.0)))
    return float(0.5 * (levels[best] + levels[min(best + 1, len(levels) - 1)]))


def figures(
    top_seen_images: TopScores,
    labels_seen_N: np.ndarray,
    top_unseen_images: TopScores,
    labels_unseen_N: np.ndarray,
    constant: float,
) -> Figures:
    """T1, and u, s and H with `constant` taken from the scores of seen classes."""
    u = per_class_accuracy(top_unseen_images.predicted(constant), labels_unseen_N, np.unique(labels_unseen_N))
    s = per_class_accuracy(top_seen_images.predicted(constant), labels_seen_N, np.unique(labels_seen_N))
    return Figures(zsl_accuracy(top_unseen_images, labels_unseen_N), u, s, harmonic_mean(u, s))

"""Seen-class embeddings phi(y) from assignments: the mean over the class's images of each image's mean assignment.

Source: "VGSE: Visually-Grounded Semantic Embeddings for Zero-Shot Learning" (CVPR 2022), section 3.1:
a_n = (1/T) sum_t a_nt and phi(y) = (1/|I_y|) sum_n a_n. Every image weighs the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class ClassEmbeddingSums:
    """Per-class float64 sums and image counts; parts made anywhere merge in any order to the same result (1e-12).

    Args:
        num_classes: seen classes S.
        num_clusters: clusters K.
    """

    def __init__(self, num_classes: int, num_clusters: int) -> None:
        self.sums_SK = np.zeros((num_classes, num_clusters))
        self.counts_S = np.zeros(num_classes, dtype=np.int64)

    def add(self, assignments: ArrayLike, labels_N: ArrayLike) -> None:
        """Adds N images.

        Args:
            assignments: a_NTK of every patch, or a_NK already averaged over the image's patches.
            labels_N: class index of every image, in 0..S-1.

        Raises:
            ValueError: wrong shapes, a class index out of range, or an assignment that is not finite.
        """
        a_NK = np.asarray(assignments, dtype=np.float64)
        if a_NK.ndim == 3:
            a_NK = a_NK.mean(axis=1)
        labels = np.asarray(labels_N)
        if a_NK.shape != (len(labels), self.sums_SK.shape[1]):
            raise ValueError(
                f"assignments {a_NK.shape} do not fit {len(labels)} labels, {self.sums_SK.shape[1]} clusters"
            )
        if len(labels) and (labels.min() < 0 or labels.max() >= len(self.counts_S)):
            raise ValueError(f"class indices must lie in 0..{len(self.counts_S) - 1}")
        if not np.isfinite(a_NK).all():
            raise ValueError("assignments are not finite")
        np.add.at(self.sums_SK, labels, a_NK)
        np.add.at(self.counts_S, labels, 1)

    def merge(self, other: ClassEmbeddingSums) -> None:
        """Adds what another part has summed."""
        self.sums_SK += other.sums_SK
        self.counts_S += other.counts_S

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """phi_SK (float64) and the image counts (S,).

        Raises:
            ValueError: a class without images, which has no embedding.
        """
        empty = np.flatnonzero(self.counts_S == 0)
        if len(empty):
            raise ValueError(f"no images for {len(empty)} classes, the first with index {empty[0]}")
        return self.sums_SK / self.counts_S[:, None], self.counts_S

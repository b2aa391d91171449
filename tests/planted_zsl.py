"""A zero-shot problem with known class embeddings."""

from __future__ import annotations

import numpy as np

from vgse.zsl.episode import Episode, ImageSet

TRAIN, VAL, UNSEEN, WIDTH, FEATURES = 24, 6, 10, 12, 40


class Planted:
    """Images scattered around a linear map of their class's true embedding."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.e_CK = rng.normal(size=(TRAIN + VAL + UNSEEN, WIDTH))
        self.map_KF = rng.normal(size=(WIDTH, FEATURES)) / np.sqrt(WIDTH)
        self.rng = rng

    def images(self, rows: np.ndarray, per_class: int) -> tuple[np.ndarray, np.ndarray]:
        labels_N = np.repeat(np.arange(len(rows)), per_class)
        x_NF = self.e_CK[rows][labels_N] @ self.map_KF + 0.5 * self.rng.normal(size=(len(labels_N), FEATURES))
        return x_NF.astype(np.float16), labels_N

    def episode(self, seen: np.ndarray, unseen: np.ndarray) -> Episode:
        rows = np.concatenate([seen, unseen])
        test_unseen = self.images(unseen, 20)
        return Episode(
            tuple(f"class_{row}" for row in rows),
            np.arange(len(rows)) < len(seen),
            ImageSet(*self.images(seen, 30)),
            ImageSet(*self.images(seen, 10)),
            ImageSet(test_unseen[0], test_unseen[1] + len(seen)),
        )

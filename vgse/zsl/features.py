"""How image features enter the models: L2-normalised rows, centred on the mean of the training images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def l2_rows(features_BF: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    x_BF = np.asarray(features_BF, np.float32)
    length_B = np.linalg.norm(x_BF, axis=1, keepdims=True)
    return x_BF / np.where(length_B > 0, length_B, 1.0)


@dataclass(frozen=True)
class FeatureMap:
    """The transformation that a fit applies to every feature row, at training and at test.

    Attributes:
        l2: rows are L2-normalised first.
        mean_F: subtracted afterwards, or None.
    """

    l2: bool = False
    mean_F: np.ndarray | None = None

    def __call__(self, features_BF: np.ndarray) -> np.ndarray:
        """(B, F) float32."""
        x_BF = l2_rows(features_BF) if self.l2 else np.asarray(features_BF, np.float32)
        return x_BF if self.mean_F is None else x_BF - self.mean_F.astype(np.float32)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows that cover `count` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))

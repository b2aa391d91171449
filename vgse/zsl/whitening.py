"""Principal directions of image features, for a model that is trained step by step (SJE)."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from vgse.errors import DataError
from vgse.zsl.eszsl import EszslStatistics


def principal_directions(statistics: EszslStatistics, dimensions: int, whitening: float) -> np.ndarray:
    """Projection (F, P) float32 on the leading directions, scaled towards equal variance, rows of about length 1.

    Args:
        statistics: of the training images.
        dimensions: P at most; F where that is smaller.
        whitening: added to every variance, in units of the mean variance.

    Raises:
        DataError: every feature is zero, so there is nothing to learn from.
    """
    dim = statistics.feature_dim
    first = dim - min(dimensions, dim)
    values_P, vectors_FP = linalg.eigh(statistics.gram_FF, subset_by_index=[first, dim - 1], check_finite=False)
    if not values_P[-1] > 0:
        raise DataError("the features of all training images are the same", "check the backbone and its weights")
    values_P = np.maximum(values_P, 0.0)
    ridge = whitening * float(np.trace(statistics.gram_FF)) / dim
    scale = np.sqrt(statistics.images / (values_P / (values_P + ridge)).sum())
    return (vectors_FP * (scale / np.sqrt(values_P + ridge))).astype(np.float32)

"""Do classes that look alike have like embeddings? The correlation of two similarities over pairs of classes."""

from __future__ import annotations

import numpy as np

# So many classes are compared with one another, drawn evenly where there are more (2 million pairs).
_MOST_CLASSES = 2000


def similarity_correlation(embeddings_CK: np.ndarray, prototypes_CF: np.ndarray) -> float:
    """Pearson correlation, over all pairs of classes, of the cosine of embeddings with the cosine of image prototypes.

    Both are centred on the mean of the classes first, so that a direction all classes share says nothing.

    Args:
        embeddings_CK: class embeddings.
        prototypes_CF: mean image feature of each class.

    Returns:
        A number in [-1, 1]; nan where one side is the same for all pairs.

    Raises:
        ValueError: numbers of classes that differ, or fewer than three.
    """
    classes = len(embeddings_CK)
    if classes != len(prototypes_CF) or classes < 3:
        raise ValueError(f"{classes} embeddings and {len(prototypes_CF)} prototypes are no pairs to compare")
    rows = np.linspace(0, classes - 1, min(classes, _MOST_CLASSES)).astype(np.int64)
    first, second = (_cosines(np.asarray(matrix, np.float64)[rows]) for matrix in (embeddings_CK, prototypes_CF))
    if first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _cosines(matrix_CD: np.ndarray) -> np.ndarray:
    centred_CD = matrix_CD - matrix_CD.mean(axis=0)
    length_C1 = np.linalg.norm(centred_CD, axis=1, keepdims=True)
    unit_CD = centred_CD / np.where(length_C1 > 0, length_C1, 1.0)
    return (unit_CD @ unit_CD.T)[np.triu_indices(len(unit_CD), 1)]

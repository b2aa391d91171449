"""The figures of (generalised) zero-shot learning: mean per-class top-1 accuracy and its harmonic mean.

As in Xian et al., "Zero-Shot Learning - A Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Figures:
    """Fractions in 0..1.

    Attributes:
        T1: zero-shot learning; mean per-class top-1 of unseen classes with only unseen classes as candidates.
        u: generalised; mean per-class top-1 of unseen classes with all classes as candidates.
        s: generalised; the same for seen classes.
        H: harmonic mean of u and s.
    """

    T1: float
    u: float
    s: float
    H: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name, as evaluation.json holds them."""
        return asdict(self)


def class_weights(labels_N: np.ndarray, classes: Sequence[int] | np.ndarray) -> np.ndarray:
    """What each image counts in a mean per-class accuracy, (N,) float64; images outside `classes` count 0.

    The mean runs over the classes that have images, and a class's images share its weight evenly.

    Raises:
        ValueError: none of `classes` has an image.
    """
    labels_N = np.asarray(labels_N, np.int64)
    inside_N = np.isin(labels_N, np.asarray(classes, np.int64))
    if not inside_N.any():
        raise ValueError("no image belongs to any of the classes whose accuracy is asked for")
    _, class_of_N, count = np.unique(labels_N[inside_N], return_inverse=True, return_counts=True)
    weights_N = np.zeros(len(labels_N))
    weights_N[inside_N] = 1.0 / (count[class_of_N] * len(count))
    return weights_N


def per_class_accuracy(predicted_N: np.ndarray, labels_N: np.ndarray, classes: Sequence[int] | np.ndarray) -> float:
    """Mean over `classes` of the share of the class's images that are predicted right.

    Args:
        predicted_N, labels_N: class numbers.
        classes: class numbers to take the mean over; those without images are left out.

    Raises:
        ValueError: none of `classes` has an image, or the lengths differ.
    """
    predicted_N, labels_N = np.asarray(predicted_N), np.asarray(labels_N)
    if predicted_N.shape != labels_N.shape or labels_N.ndim != 1:
        raise ValueError(f"{predicted_N.shape} predictions do not match {labels_N.shape} labels")
    return float(class_weights(labels_N, classes) @ (predicted_N == labels_N))


def accuracy_by_class(predicted_N: np.ndarray, labels_N: np.ndarray, classes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Share of each class's images that are predicted right, float64 in the order of `classes`; nan without images.

    Args:
        predicted_N, labels_N: class numbers.
        classes: class numbers whose accuracies are wanted.

    Raises:
        ValueError: the lengths differ.
    """
    predicted_N, labels_N = np.asarray(predicted_N, np.int64), np.asarray(labels_N, np.int64)
    if predicted_N.shape != labels_N.shape or labels_N.ndim != 1:
        raise ValueError(f"{predicted_N.shape} predictions do not match {labels_N.shape} labels")
    classes = np.asarray(classes, np.int64)
    length = int(max(classes.max(initial=0), labels_N.max(initial=0))) + 1
    count = np.bincount(labels_N, minlength=length)[classes]
    right = np.bincount(labels_N[predicted_N == labels_N], minlength=length)[classes]
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def skewness(counts: np.ndarray) -> float:
    """Third standardised moment m3 / m2^(3/2) (population moments); 0 where all values are equal."""
    deviations = np.asarray(counts, np.float64) - np.mean(counts)
    variance = float(np.mean(deviations**2))
    return float(np.mean(deviations**3)) / variance**1.5 if variance > 0 else 0.0


def harmonic_mean(u: float, s: float) -> float:
    """H = 2us / (u + s), and 0 where both are 0."""
    return 2.0 * u * s / (u + s) if u + s > 0 else 0.0

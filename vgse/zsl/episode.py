"""One zero-shot problem with its images, checked before any model is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vgse.errors import DataError


class FeatureRows(Protocol):
    """What is asked of image features: their shape, and rows by slice or integer array."""

    ndim: int

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class ImageSet:
    """Features of images with their class numbers.

    Attributes:
        features_NF: (N, F) float16, float32 or float64; an array, a memory map, or anything that reads rows on demand.
        labels_N: (N,) int64, row of the episode's class list.
    """

    features_NF: FeatureRows
    labels_N: np.ndarray

    def __post_init__(self) -> None:
        if self.features_NF.ndim != 2 or self.labels_N.shape != (len(self.features_NF),):
            raise ValueError(f"features {self.features_NF.shape} do not match labels {self.labels_N.shape}")
        if not np.issubdtype(self.labels_N.dtype, np.integer):
            raise ValueError(f"labels must be integers, not {self.labels_N.dtype}")

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Episode:
    """A zero-shot problem: classes, which of them are seen, and the images of the three parts.

    Attributes:
        class_names: C names.
        seen_C: (C,) bool.
        train: images of seen classes that models are fitted on.
        test_seen: other images of seen classes.
        test_unseen: images of unseen classes.

    Raises:
        DataError: an image on the wrong side, or a class without images, named.
    """

    class_names: tuple[str, ...]
    seen_C: np.ndarray
    train: ImageSet
    test_seen: ImageSet
    test_unseen: ImageSet

    def __post_init__(self) -> None:
        seen_C, names = self.seen_C, self.class_names
        if seen_C.shape != (len(names),) or seen_C.dtype != bool:
            raise ValueError(f"seen_C must be bool ({len(names)},), not {seen_C.dtype} {seen_C.shape}")
        if seen_C.sum() < 2 or seen_C.all():
            raise DataError(
                f"{int(seen_C.sum())} seen and {int((~seen_C).sum())} unseen classes are no zero-shot problem",
                "list at least two seen classes and one unseen class",
            )
        for part, side_C in (("train", seen_C), ("test_seen", seen_C), ("test_unseen", ~seen_C)):
            self._check(part, side_C)

    @property
    def feature_dim(self) -> int:
        """F."""
        return int(self.train.features_NF.shape[1])

    def seen_positions(self, labels_N: np.ndarray) -> np.ndarray:
        """Class numbers turned into rows of the seen-class matrix."""
        return (np.cumsum(self.seen_C) - 1)[labels_N]

    def _check(self, part: str, side_C: np.ndarray) -> None:
        images: ImageSet = getattr(self, part)
        if images.features_NF.shape[1] != self.feature_dim:
            raise ValueError(f"{part} features are {images.features_NF.shape[1]} wide, train's {self.feature_dim}")
        labels_N = images.labels_N
        if len(labels_N) and (labels_N.min() < 0 or labels_N.max() >= len(side_C)):
            raise ValueError(f"{part} labels reach outside the {len(side_C)} classes")
        count_C = np.bincount(labels_N, minlength=len(side_C))
        wrong = np.flatnonzero((count_C > 0) & ~side_C)
        if len(wrong):
            raise DataError(
                f"images in {part} belong to {self._named(wrong)}, which {'is' if len(wrong) == 1 else 'are'} "
                f"{'unseen' if part != 'test_unseen' else 'seen'}",
                "mend the class split or the labels",
            )
        empty = np.flatnonzero((count_C == 0) & side_C)
        if len(empty):
            raise DataError(
                f"no image in {part} of {self._named(empty)}",
                "add images of these classes, or take the classes out of the split",
            )

    def _named(self, classes: np.ndarray, most: int = 10) -> str:
        said = ", ".join(self.class_names[c] for c in classes[:most])
        return said + (f" and {len(classes) - most} more" if len(classes) > most else "")

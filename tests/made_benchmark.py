"""A benchmark in the published format whose images lie around a linear map of their class's attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

TRAIN, VAL, UNSEEN, PER_CLASS, FEATURES, ATTRIBUTES = 16, 6, 8, 20, 64, 24
CLASSES = TRAIN + VAL + UNSEEN
NAMES = [f"{i:03d}.Kind_{'abcdefghijklmnopqrstuvwxyzABCD'[i]}+{i}" for i in range(CLASSES)]


def cells(texts: list[str]) -> np.ndarray:
    """A column of a MATLAB cell array."""
    out = np.empty((len(texts), 1), object)
    out[:, 0] = texts
    return out


def images_of(att_CK: np.ndarray, labels_N: np.ndarray, features: int = FEATURES, noise: float = 1.0) -> np.ndarray:
    """Features (N, F) float32 that show the attributes of their class through a random linear map."""
    rng = np.random.default_rng(5)
    centred_CK = att_CK - att_CK.mean(axis=0)
    map_KF = rng.normal(size=(att_CK.shape[1], features)) / np.linalg.norm(centred_CK, axis=1).mean()
    # All positive and with a common part, as pooled features of a network are.
    return (5 + centred_CK @ map_KF)[labels_N].astype(np.float32) + noise * rng.normal(
        size=(len(labels_N), features)
    ).astype(np.float32)


@dataclass
class MadeBenchmark:
    """The content of both files, to be changed before they are written.

    Classes stand in a drawn order, so that seen and unseen ones alternate. As published, train_loc and val_loc hold
    the images of test_seen_loc too.
    """

    features: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        att_CK = rng.normal(size=(CLASSES, ATTRIBUTES))
        labels_N = np.repeat(np.arange(CLASSES), PER_CLASS)
        part_C = rng.permutation(np.repeat([0, 1, 2], [TRAIN, VAL, UNSEEN]))
        part_N, number_N = part_C[labels_N], np.arange(len(labels_N)) % PER_CLASS
        rows = {
            "train": part_N == 0,
            "val": part_N == 1,
            "trainval": (part_N < 2) & (number_N < 14),
            "test_seen": (part_N < 2) & (number_N >= 14),
            "test_unseen": part_N == 2,
        }
        self.features = {
            "features": images_of(att_CK, labels_N).T,
            "labels": (labels_N + 1).astype(np.uint16)[:, None],
            "image_files": cells([f"{n}.jpg" for n in range(len(labels_N))]),
        }
        self.splits = {
            "att": att_CK.T,
            "allclasses_names": cells(NAMES),
            **{f"{name}_loc": rng.permutation(np.flatnonzero(r) + 1)[:, None] for name, r in rows.items()},
        }

    @property
    def att_CK(self) -> np.ndarray:
        """The attributes, a row per class."""
        return self.splits["att"].T

    def write(self, folder: Path) -> tuple[str, str]:
        """Writes res101.mat and att_splits.mat and returns their paths."""
        savemat(folder / "res101.mat", self.features)
        savemat(folder / "att_splits.mat", self.splits)
        return str(folder / "res101.mat"), str(folder / "att_splits.mat")

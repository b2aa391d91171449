"""The published file format of the zero-shot benchmarks ("xlsa17", Xian et al. 2017), as bytes.

Existing programs read `res101.mat` (here features.mat) and `att_splits.mat` (here class_embeddings_splits.mat) by
these keys, subtract 1 from the image numbers and index with them, so numbers are written as integers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.io import savemat


def class_embeddings_mat(
    embeddings_CK: np.ndarray,
    class_names: Sequence[str],
    *,
    trainval: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    test_seen: np.ndarray,
    test_unseen: np.ndarray,
) -> bytes:
    """`class_embeddings_splits.mat`: `att` (K, C) double, `allclasses_names` (C, 1), and the five `*_loc` (N, 1).

    Args:
        embeddings_CK: class embeddings.
        class_names: C names.
        trainval, train, val, test_seen, test_unseen: 0-based image numbers in features.mat; written 1-based.

    Raises:
        ValueError: the number of names is not C, or an image number is negative.
    """
    if len(class_names) != len(embeddings_CK):
        raise ValueError(f"{len(class_names)} class names do not fit embeddings {embeddings_CK.shape}")
    locations = {"trainval": trainval, "train": train, "val": val, "test_seen": test_seen, "test_unseen": test_unseen}
    content: dict[str, Any] = {
        "att": np.asarray(embeddings_CK, np.float64).T,
        "allclasses_names": _cells(class_names),
    }
    for name, rows in locations.items():
        content[f"{name}_loc"] = _one_based(np.asarray(rows), f"{name}_loc")
    return _mat(content)


def features_mat(features_NF: np.ndarray, labels_N: np.ndarray, image_files: Sequence[str]) -> bytes:
    """`features.mat`: `features` (F, N) single, `labels` (N, 1) 1-based, `image_files` (N, 1).

    Args:
        features_NF: image features.
        labels_N: 0-based class numbers, in the order of class_embeddings_splits.mat; written 1-based.
        image_files: N image names.

    Raises:
        ValueError: lengths that differ, or a negative label.
    """
    if not len(features_NF) == len(labels_N) == len(image_files):
        raise ValueError(f"{len(features_NF)} features, {len(labels_N)} labels, {len(image_files)} image files")
    return _mat(
        {
            "features": np.asarray(features_NF, np.float32).T,
            "labels": _one_based(np.asarray(labels_N), "labels"),
            "image_files": _cells(image_files),
        }
    )


def _cells(texts: Sequence[str]) -> np.ndarray:
    cells = np.empty((len(texts), 1), object)
    cells[:, 0] = list(texts)
    return cells


def _one_based(numbers: np.ndarray, name: str) -> np.ndarray:
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"{name}: {numbers.min()} is no 0-based number")
    # MATLAB stores whole doubles in the narrowest type that holds them; the published files load as uint16.
    kind = np.uint16 if len(numbers) == 0 or numbers.max() < 2**16 - 1 else np.int32
    return (numbers.astype(np.int64) + 1).astype(kind)[:, None]


def _mat(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content, format="5", long_field_names=True)
    return buffer.getvalue()

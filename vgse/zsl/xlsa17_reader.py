"""Reads the published file format of the zero-shot benchmarks ("xlsa17", Xian et al. 2017) and checks that it fits.

`res101.mat` holds `features` (F, N) and `labels` (N, 1), `att_splits.mat` the classes, their attributes and which
images serve for what, all counted from 1. Here everything counts from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from vgse.errors import DataError
from vgse.storage import Storage

_LOCATIONS = ("trainval", "train", "val", "test_seen", "test_unseen")


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with everything checked.

    Attributes:
        class_names: C names.
        att_CK: the published class embeddings, or None where the file has none.
        features_NF: (N, F) float32.
        labels_N: (N,) class numbers.
        trainval, test_seen, test_unseen: image numbers; no image is in two of them, no class on both sides.
        train, val: image numbers for choices as published (they may reach into test_seen), or None.
    """

    class_names: tuple[str, ...]
    att_CK: np.ndarray | None
    features_NF: np.ndarray
    labels_N: np.ndarray
    trainval: np.ndarray
    test_seen: np.ndarray
    test_unseen: np.ndarray
    train: np.ndarray | None
    val: np.ndarray | None


def read_benchmark(storage: Storage, features_uri: str, splits_uri: str) -> Benchmark:
    """Reads both files.

    Raises:
        DataError: a file is no MATLAB 5 file, lacks a key, or holds numbers that do not fit: the file and the key are
            named; or an image serves for training and test, or a class is both seen and unseen.
        StorageError: a file is not there.
    """
    content = read_mat(storage, splits_uri, ["allclasses_names", "att", *(f"{name}_loc" for name in _LOCATIONS)])
    names = class_names_of(content, splits_uri)
    features_NF, labels_N = _features(storage, features_uri, len(names), splits_uri)
    rows = {
        name: locations(content, f"{name}_loc", splits_uri, len(labels_N))
        for name in _LOCATIONS
        # Choices can be drawn from trainval_loc where a file leaves out both.
        if name not in ("train", "val") or any(key in content for key in ("train_loc", "val_loc"))
    }
    check_sides(rows, labels_N, names, splits_uri)
    return Benchmark(
        names,
        embeddings_of(content, len(names), splits_uri) if "att" in content else None,
        features_NF,
        labels_N,
        **{name: rows.get(name) for name in _LOCATIONS},  # type: ignore[arg-type]
    )


def read_mat(storage: Storage, uri: str, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The variables of a MATLAB 5 file, those of `names` if given.

    Raises:
        DataError: it is of another format.
        StorageError: it is not there.
    """
    try:
        content = loadmat(storage.local_copy(uri), variable_names=None if names is None else list(names))
    except NotImplementedError:
        raise DataError(
            f"{uri} is a MATLAB 7.3 (HDF5) file",
            "save it again in the older format: save(file, '-v7') in MATLAB, or scipy.io.savemat in Python",
        ) from None
    except (ValueError, TypeError, KeyError, IndexError, EOFError, OSError, MatReadError) as error:
        raise DataError(
            f"{uri} cannot be read as a MATLAB file ({type(error).__name__}: {error})",
            "give a .mat file of MATLAB's format 5 to 7",
        ) from None
    return {key: value for key, value in content.items() if not key.startswith("__")}


def class_names_of(content: Mapping[str, Any], uri: str) -> tuple[str, ...]:
    """The names in `allclasses_names`, a cell array of texts."""
    names = texts_of(content, "allclasses_names", uri, "class names")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{uri}: allclasses_names names twice: {', '.join(twice)}", "give every class its own name")
    return names


def texts_of(content: Mapping[str, Any], key: str, uri: str, what: str) -> tuple[str, ...]:
    """The texts of a cell array; `DataError` where it holds none, or an empty one."""
    cells = np.asarray(required(content, key, uri))
    # A cell holds an array with one text; an array of texts (as Python programs write it) pads them with blanks.
    texts = [np.ravel(cell) for cell in cells.ravel()] if cells.dtype == object else cells.ravel()[:, None]
    found = tuple(str(text[0]).strip() if len(text) else "" for text in texts)
    if not found or not all(found) or cells.dtype.kind not in "OU":
        raise DataError(f"{uri}: {key} holds no {what}", "write it as a cell array of texts")
    return found


def embeddings_of(content: Mapping[str, Any], classes: int, uri: str, key: str = "att") -> np.ndarray:
    """Class embeddings (C, K) float64 from `att`, published as (K, C); (C, K) is taken where only that fits."""
    found = np.asarray(required(content, key, uri))
    if found.ndim == 2 and found.size and found.dtype.kind in "fiub":
        if found.shape[1] == classes:
            return found.T.astype(np.float64)
        if found.shape[0] == classes:
            return found.astype(np.float64)
    raise DataError(
        f"{uri}: {key} is {found.dtype} {found.shape}, which does not fit {classes} classes",
        f"write {key} as numbers, a row per attribute and a column per class",
    )


def required(content: Mapping[str, Any], key: str, uri: str) -> Any:
    """The variable `key`; `DataError` where there is none."""
    if key not in content:
        there = ", ".join(sorted(content)) or "none of those looked for"
        raise DataError(f"{uri}: the key {key} is missing (there: {there})", "give a file in the xlsa17 format")
    return content[key]


def _features(storage: Storage, uri: str, classes: int, splits_uri: str) -> tuple[np.ndarray, np.ndarray]:
    content = read_mat(storage, uri, ["features", "labels"])
    features_FN = np.asarray(required(content, "features", uri))
    labels_N = whole_numbers(required(content, "labels", uri), "labels", uri) - 1
    if features_FN.ndim != 2 or features_FN.dtype.kind not in "fiu" or features_FN.shape[1] != len(labels_N):
        raise DataError(
            f"{uri}: features are {features_FN.dtype} {features_FN.shape}, but there are {len(labels_N)} labels",
            "write features as (F, N): a column per image",
        )
    if len(labels_N) == 0:
        raise DataError(f"{uri} holds no images", "give the features of the benchmark's images")
    if labels_N.min() < 0 or labels_N.max() >= classes:
        raise DataError(
            f"{uri}: labels run from {labels_N.min() + 1} to {labels_N.max() + 1}, but {splits_uri} has {classes} "
            "classes, counted from 1",
            "give the features and the splits of the same benchmark",
        )
    return np.ascontiguousarray(features_FN.T, np.float32), labels_N


def locations(content: Mapping[str, Any], key: str, uri: str, images: int) -> np.ndarray:
    """The image numbers, from 0, that `key` lists; `DataError` where there is none, one twice or one too large."""
    rows = whole_numbers(required(content, key, uri), key, uri)
    if len(rows) == 0:
        raise DataError(f"{uri}: {key} is empty", "give a split with images in every part")
    if rows.min() < 1 or rows.max() > images:
        outside = int(rows.min() if rows.min() < 1 else rows.max())
        raise DataError(
            f"{uri}: {key} holds image number {outside}, but images are numbered 1 to {images}",
            "give the features and the splits of the same benchmark",
        )
    if len(np.unique(rows)) < len(rows):
        raise DataError(f"{uri}: {key} lists some images twice", "list every image once")
    return rows - 1


def whole_numbers(values: Any, key: str, uri: str) -> np.ndarray:
    """A vector of whole numbers, int64; `DataError` where it is something else."""
    numbers = np.asarray(values)
    # A vector with one column or row; anything wider is something else.
    flat = (
        numbers.ravel() if numbers.dtype.kind in "iuf" and numbers.size in {0, max(numbers.shape, default=0)} else None
    )
    if flat is None or not np.array_equal(flat, np.round(flat)) or not (np.abs(flat) < 2**53).all():
        raise DataError(
            f"{uri}: {key} ({numbers.dtype} {numbers.shape}) holds no list of whole numbers", f"write {key} as (N, 1)"
        )
    return flat.astype(np.int64)


def check_sides(rows: Mapping[str, np.ndarray], labels_N: np.ndarray, names: Sequence[str], uri: str) -> None:
    """`DataError` where an image serves for training and test, or a class is both seen and unseen."""
    for first, second in (("trainval", "test_seen"), ("trainval", "test_unseen"), ("test_seen", "test_unseen")):
        both = np.intersect1d(rows[first], rows[second])
        if len(both):
            raise DataError(
                f"{uri}: {len(both)} images are in {first}_loc and in {second}_loc (e.g. number {both[0] + 1})",
                "mend the split: test images must not be trained on",
            )
    seen = np.union1d(labels_N[rows["trainval"]], labels_N[rows["test_seen"]])
    both = np.intersect1d(seen, labels_N[rows["test_unseen"]])
    if len(both):
        said = ", ".join(names[c] for c in both[:10]) + (f" and {len(both) - 10} more" if len(both) > 10 else "")
        raise DataError(
            f"{uri}: classes both seen (trainval_loc, test_seen_loc) and unseen (test_unseen_loc): {said}",
            "give the features and the splits of the same benchmark, or mend the split",
        )

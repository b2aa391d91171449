"""Class embeddings from anyone's file (.mat, .npz, .csv), brought into the order of the benchmark's classes."""

from __future__ import annotations

import difflib
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vgse.data.words import name_tokens
from vgse.errors import DataError
from vgse.storage import Storage
from vgse.zsl.xlsa17_reader import class_names_of, embeddings_of, read_mat


@dataclass(frozen=True)
class ClassEmbeddings:
    """Embeddings of the benchmark's classes.

    Attributes:
        embeddings_CK: (C, K) float64, in the order of the classes asked for.
        matched: `by name`, or `by order` where the file names no classes.
        unused: classes that the file holds beyond those asked for.
    """

    embeddings_CK: np.ndarray
    matched: str
    unused: int = 0


def read_class_embeddings(storage: Storage, uri: str, class_names: Sequence[str]) -> ClassEmbeddings:
    """Reads one file: .mat (`att` (K, C), `allclasses_names`), .npz (`class_embeddings`, `class_names`) or .csv.

    A row of .csv is a class name and its numbers, below a header or not. Names match whatever their case and whether
    their words are joined by blanks, `_`, `+`, `.` or `-`; a number before a point in front (`001.`) does not count.

    Args:
        storage: where files are read.
        uri: the file.
        class_names: the C classes whose embeddings are wanted.

    Raises:
        DataError: a format or a shape that does not fit, a class that the file does not name or names twice, or numbers
            that are not finite; the file and the classes are named.
        StorageError: the file is not there.
    """
    readers = {".mat": _from_mat, ".npz": _from_npz, ".csv": _from_csv}
    suffix = "." + uri.rsplit(".", 1)[-1].lower()
    if suffix not in readers:
        raise DataError(f"{uri}: class embeddings are read from {', '.join(readers)}", "save them in one of these")
    names, embeddings_RK = readers[suffix](storage, uri, len(class_names))
    said = names or class_names
    broken = [said[int(row)] for row in np.flatnonzero(~np.isfinite(embeddings_RK).all(axis=1))]
    if broken:
        raise DataError(f"{uri}: the embeddings of {_listed(broken)} are not finite", "mend or complete these rows")
    if names is None:
        return ClassEmbeddings(embeddings_RK, "by order")
    rows = _rows_by_name(names, class_names, uri)
    return ClassEmbeddings(embeddings_RK[rows], "by name", len(names) - len(rows))


_Named = tuple[tuple[str, ...] | None, np.ndarray]


def _from_mat(storage: Storage, uri: str, classes: int) -> _Named:
    content = read_mat(storage, uri, ["att", "allclasses_names"])
    names = class_names_of(content, uri) if "allclasses_names" in content else None
    return names, embeddings_of(content, len(names) if names else classes, uri)


def _from_npz(storage: Storage, uri: str, classes: int) -> _Named:
    try:
        with np.load(storage.local_copy(uri), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in ("class_names", "class_embeddings") if key in arrays}
            there = ", ".join(arrays.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise DataError(
            f"{uri} cannot be read ({type(error).__name__}: {error})",
            "write it by numpy.savez with class_embeddings as numbers and class_names as texts (not as objects)",
        ) from None
    if "class_embeddings" not in found:
        raise DataError(f"{uri}: the array class_embeddings is missing (there: {there or 'nothing'})", "add it")
    names = tuple(found["class_names"].ravel().astype(str).tolist()) if "class_names" in found else None
    wanted, embeddings = len(names) if names else classes, found["class_embeddings"]
    if (
        embeddings.ndim != 2
        or len(embeddings) != wanted
        or not embeddings.shape[1]
        or embeddings.dtype.kind not in "fiub"
    ):
        raise DataError(
            f"{uri}: class_embeddings is {embeddings.dtype} {embeddings.shape}, which does not fit {wanted} classes",
            "write it as numbers, a row per class",
        )
    return names, embeddings.astype(np.float64)


def _from_csv(storage: Storage, uri: str, classes: int) -> _Named:
    path = storage.local_copy(uri)
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
        header = 0 if pd.to_numeric(first.iloc[0, 1:], errors="coerce").isna().all() else None
        frame = pd.read_csv(path, header=header, dtype={0: str, first.iloc[0, 0]: str}, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{uri} cannot be read as CSV: {error}", "write a class name and its numbers per row") from None
    if frame.shape[1] < 2 or frame.empty:
        raise DataError(
            f"{uri}: there are no numbers behind the class names", "write a class name and its numbers per row"
        )
    names = tuple(str(name).strip() for name in frame.iloc[:, 0])
    numbers = frame.iloc[:, 1:].apply(pd.to_numeric, errors="coerce")
    return names, numbers.to_numpy(np.float64)


def _rows_by_name(names: Sequence[str], wanted: Sequence[str], uri: str) -> list[int]:
    """The row of every wanted class: of its exact name, else of its name by words."""
    exact, times = {name: row for row, name in enumerate(names)}, Counter(names)
    by_words: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_words.setdefault(_key(name), []).append(row)
    rows: list[int] = []
    missing: list[str] = []
    twice: list[str] = []
    for name in wanted:
        alike = by_words.get(_key(name), [])
        if times[name] == 1:
            rows.append(exact[name])
        elif len(alike) == 1:
            rows.append(alike[0])
        else:
            (twice if alike else missing).append(name)
    if twice:
        raise DataError(f"{uri} holds more than one row for {_listed(twice)}", "keep one row per class")
    if missing:
        near = difflib.get_close_matches(_key(missing[0]), list(by_words), n=1, cutoff=0.0)
        example = f"; nearest to {missing[0]} is {names[by_words[near[0]][0]]}" if near else ""
        raise DataError(
            f"{uri} has no embedding for {len(missing)} of {len(wanted)} classes: {_listed(missing)}{example}",
            "add them, or rename rows to the class names of the splits file",
        )
    return rows


def _key(name: str) -> str:
    return " ".join(name_tokens(name)).lower() or name.strip().lower()


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

"""The user's own class vectors: .npz, .csv or .parquet."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.data.knowledge.source import Source, check_some_known
from vgse.data.knowledge.tables import KEY, check_names, need_columns, read_csv, read_parquet
from vgse.errors import DataError
from vgse.storage import Storage


def vectors_source(storage: Storage, uri: str, class_names: Sequence[str]) -> Source:
    """The source `vectors`: class vectors (a text encoder's, attributes, ...) in the order of `class_names`.

    .npz holds `class_names` (N,) and `vectors` (N, D); .csv the column `class_name` and columns of numbers; .parquet
    the same, or `class_name` and one column of lists.

    Raises:
        DataError: another format, a class named twice, vectors of different lengths, a value that is no finite
            number (the class is named), or none of the classes.
    """
    where = f"knowledge.vectors: {uri}"
    kind = uri.rsplit(".", 1)[-1].lower()
    if kind == "npz":
        names, vectors_ND = _of_npz(storage.read_bytes(uri), where)
    elif kind == "csv":
        frame = read_csv(storage.read_bytes(uri), where, {KEY: str})
        need_columns(where, list(frame.columns), [KEY])
        names = frame[KEY].tolist()
        check_names(names, where)
        vectors_ND = _of_numbers(frame.drop(columns=KEY), names, where)
    elif kind in {"parquet", "pq"}:
        names, vectors_ND = _of_parquet(read_parquet(storage, uri, where), where)
    else:
        raise DataError(f"{where} is of no known format", "give a .npz, .csv or .parquet file")
    check_names(names, where)
    broken = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(broken):
        raise DataError(f"{where}: the vector of {names[broken[0]]} is not finite", "mend or remove it")
    if vectors_ND.shape[1] == 0:
        raise DataError(f"{where}: the vectors have no values", f"give columns of numbers beside {KEY}")
    row = {name: number for number, name in enumerate(names)}
    rows_C = np.array([row.get(name, -1) for name in class_names])
    known_C = rows_C >= 0
    check_some_known(known_C, class_names, names, where)
    return Source("vectors", np.where(known_C[:, None], vectors_ND[rows_C], 0.0), known_C)


def _of_npz(data: bytes, where: str) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            need_columns(where, list(arrays), ["class_names", "vectors"])
            names_N, vectors_ND = arrays["class_names"], arrays["vectors"]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(
            f"{where} cannot be read ({error})",
            "write it by np.savez(..., class_names=..., vectors=...), without arrays of objects",
        ) from None
    if names_N.dtype.kind == "S":
        names_N = np.char.decode(names_N, "utf-8")
    if names_N.dtype.kind != "U" or vectors_ND.dtype.kind not in "fiu" or names_N.ndim != 1:
        raise DataError(
            f"{where}: class_names is {names_N.dtype} {names_N.shape}, vectors is {vectors_ND.dtype}",
            "give class_names (N,) as text and vectors (N, D) as numbers",
        )
    if vectors_ND.ndim != 2 or len(vectors_ND) != len(names_N):
        raise DataError(f"{where}: {len(names_N)} class_names, vectors of shape {vectors_ND.shape}", "give (N, D)")
    return names_N.tolist(), vectors_ND.astype(np.float64)


def _of_parquet(table: pa.Table, where: str) -> tuple[list[str], np.ndarray]:
    need_columns(where, table.column_names, [KEY])
    names, rest = table.column(KEY).to_pylist(), table.drop_columns([KEY])
    check_names(names, where)
    if rest.num_columns != 1 or not _is_list(rest.column(0).type):
        return names, _of_numbers(rest.to_pandas(), names, where)
    vectors = rest.column(0).to_pylist()
    lengths = [-1 if one is None else len(one) for one in vectors]
    other = next((number for number, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise DataError(
            f"{where}: the vector of {names[0]} has {max(lengths[0], 0)} values, that of {names[other]} "
            f"{max(lengths[other], 0)}",
            "all vectors must have one length",
        )
    try:
        return names, np.array(vectors, np.float64).reshape(len(names), max(lengths[0], 0) if lengths else 0)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {rest.column_names[0]} does not hold numbers ({error})", "give floats") from None


def _of_numbers(frame: pd.DataFrame, names: Sequence[str], where: str) -> np.ndarray:
    """Columns of numbers as a matrix; the class and column of the first that is none are named."""
    for column in frame.columns:
        if frame[column].dtype.kind not in "fiu":
            numbers = pd.to_numeric(frame[column], errors="coerce")
            wrong = np.flatnonzero(numbers.isna().to_numpy())
            row = int(wrong[0]) if len(wrong) else 0
            raise DataError(
                f"{where}: {column} of {names[row]} is {frame[column].iloc[row]!r}, no number", "give numbers only"
            )
    return frame.to_numpy(np.float64)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

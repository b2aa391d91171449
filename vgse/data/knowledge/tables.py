"""Tables that name a class in every row: JSON lines, CSV or Parquet, with errors that name field, file and line."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from vgse.errors import DataError
from vgse.storage import Storage

KEY = "class_name"


@dataclass(frozen=True)
class ClassTable:
    """Rows by class name, each a dictionary of cells; `columns` without the class name, in the file's order."""

    where: str
    columns: tuple[str, ...]
    rows: dict[str, dict[str, Any]]


def read_class_table(storage: Storage, uri: str, field: str) -> ClassTable:
    """A .jsonl, .csv or .parquet file with the column `class_name`.

    Cells are as the file has them: text, lists, lists of lists; CSV has text only.

    Args:
        storage: reads the file.
        uri: its location.
        field: path of the setting, for error messages.

    Raises:
        DataError: another format, unreadable (the line is named where there are lines), no `class_name`, or a class
            named twice.
    """
    where = f"{field}: {uri}"
    kind = uri.rsplit(".", 1)[-1].lower()
    if kind in {"jsonl", "ndjson"}:
        rows = _json_rows(storage.read_bytes(uri), where)
    elif kind == "csv":
        frame = read_csv(storage.read_bytes(uri), where, str)
        need_columns(where, list(frame.columns), [KEY])
        rows = [{str(column): cell for column, cell in row.items()} for row in frame.to_dict("records")]
    elif kind in {"parquet", "pq"}:
        table = read_parquet(storage, uri, where)
        need_columns(where, table.column_names, [KEY])
        rows = table.to_pylist()
    else:
        raise DataError(f"{where} is of no known format", "give a .jsonl, .csv or .parquet file")
    check_names([row.get(KEY) for row in rows], where)
    columns = dict.fromkeys(column for row in rows for column in row if column != KEY)
    return ClassTable(where, tuple(columns), {row[KEY]: row for row in rows})


def read_csv(data: bytes, where: str, dtype: Any) -> pd.DataFrame:
    """A CSV file as a frame; every cell as written (a class may be called `null` or `nan`).

    Raises:
        DataError: not UTF-8, empty, or a row with more fields than the header.
    """
    try:
        with warnings.catch_warnings():
            # Otherwise fields beyond the header's are dropped with nothing but a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.BytesIO(data), dtype=dtype, keep_default_na=False, na_filter=False, index_col=False,
                encoding="utf-8-sig", skipinitialspace=True, float_precision="round_trip", low_memory=False,
            )  # fmt: skip
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error})", "save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning) as error:
        said = str(error).replace("Error tokenizing data. C error: ", "").strip()
        raise DataError(
            f"{where} is not a CSV file with one header line ({said})", "put text that holds a comma in double quotes"
        ) from None


def read_parquet(storage: Storage, uri: str, where: str) -> pa.Table:
    """A Parquet file as a table; `DataError` where it is none."""
    try:
        return storage.read_table(uri)
    except pa.ArrowInvalid as error:
        raise DataError(f"{where} is not a Parquet file ({error})", "write it again") from None


def need_columns(where: str, have: Sequence[str], needed: Iterable[str]) -> None:
    """Raises `DataError` for a missing column, with those that there are."""
    for column in needed:
        if column not in have:
            raise DataError(f"{where} has no column {column}", f"it has {', '.join(map(str, have)) or 'no column'}")


def check_names(names: Sequence[Any], where: str) -> None:
    """Raises `DataError` for a class name that is no text and for a class named twice; rows count from 1."""
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}, row {number}: {KEY} is {name!r}", "give every row the name of its class")
        if name in first:
            raise DataError(f"{where} names the class {name} twice, in rows {first[name]} and {number}", "keep one")
        first[name] = number


def _json_rows(data: bytes, where: str) -> list[dict[str, Any]]:
    rows = []
    # Split at line feeds only: str.splitlines would also split at the separators that JSON allows inside text.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}, line {number} is not JSON ({error})", "write one object on each line") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}, line {number} is not a JSON object", "write one object on each line")
        if KEY not in row:
            raise DataError(f"{where}, line {number} has no {KEY}", f"it has {', '.join(row) or 'nothing'}")
        rows.append(row)
    return rows

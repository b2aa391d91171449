"""What numbers stand for where a data set gives its classes as such."""

from __future__ import annotations

from vgse.errors import DataError
from vgse.storage import Storage


def read_class_numbers(storage: Storage, uri: str | None) -> tuple[str, ...] | None:
    """Class names by number, from 0: one a line; None where no file is given.

    Raises:
        DataError: it is not UTF-8, is empty, or has an empty line between names.
    """
    if uri is None:
        return None
    try:
        names = tuple(line.strip() for line in storage.read_bytes(uri).decode().rstrip().splitlines())
    except UnicodeDecodeError:
        raise DataError(f"data.class_names: {uri} is not UTF-8 text", "write one class name a line") from None
    if not names or not all(names):
        raise DataError(
            f"data.class_names: {uri} has empty lines", "write one class name a line, that of number 0 first"
        )
    return names

"""Locations as texts."""

from __future__ import annotations

from typing import NamedTuple


class FileInfo(NamedTuple):
    """One file found by `Storage.find`: its URI and its size in bytes."""

    uri: str
    size: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path components appended by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def protocol(uri: str) -> str:
    """The scheme of a URI, `file` for a plain path."""
    return uri.split("://", 1)[0] if "://" in uri else "file"


def with_protocol(uri: str, name: str) -> str:
    """The URI of the path `name` as fsspec gives it, in the store of `uri`."""
    return name if protocol(uri) == "file" else f"{protocol(uri)}://{name.lstrip('/')}"

"""WebDataset tars: the members that share a name up to its first dot are a sample: an image and what it shows.

Listing reads the headers (and the small members that name the class) and notes where each image's bytes lie, so that
cropping asks for those alone, in large pieces.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa

from vgse.data.readers.pages import IMAGE_SUFFIXES, page
from vgse.data.readers.windowed import WindowedFile
from vgse.errors import DataError
from vgse.storage import Storage

_ROWS_PER_PAGE = 16_384
# Images of a tar that are read together lie within this many bytes; a hole longer than the second is not read.
_STRETCH = 8 << 20
_HOLE = 1 << 20
_LARGEST_LABEL = 1 << 20
_JSON_FIELDS = ("class_name", "label", "cls")


@dataclass
class _Sample:
    """What is known of the sample whose members are being read."""

    key: str
    image: tuple[str, int, int] | None = None
    labels: dict[str, str] = field(default_factory=dict)


def list_tar(storage: Storage, uri: str, class_names: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    """Pages of one tar.

    Args:
        storage: where it is.
        uri: the file.
        class_names: what the numbers in .cls, .txt or .json members stand for; without it they are the names.

    Raises:
        DataError: it is no tar or ends early, a sample holds two images, or an image has no class: the file and the
            sample are named.
    """
    rows: list[tuple[str, str, int, int, int, int]] = []
    stem = uri.rsplit("/", 1)[-1]
    with storage.open(uri) as source:
        for number, sample in enumerate(s for s in _samples(WindowedFile(source, uri), uri) if s.image):
            name, offset, size = sample.image or ("", 0, 0)
            class_name = _class_of(sample, class_names, uri)
            rows.append((f"{stem}/{name}", class_name, number, offset // _STRETCH, offset, size))
            if len(rows) == _ROWS_PER_PAGE:
                yield _page(rows, uri)
                rows = []
    if rows:
        yield _page(rows, uri)


def read_members(storage: Storage, uri: str, rows: pd.DataFrame) -> Iterator[list[tuple[int, bytes | Exception]]]:
    """Some rows at a time of (label of the frame's row, image bytes): neighbours in the tar in one request, and then in
    the order of their labels.

    Args:
        storage: where the tar is.
        uri: the tar.
        rows: rows of the manifest with the wanted `offset` and `size`.

    Raises:
        DataError: it is shorter than when it was listed.
    """
    stretch: list[tuple[int, int, int]] = []
    ordered = rows.sort_values("offset")
    for label, start, size in zip(ordered.index, ordered["offset"], ordered["size"], strict=True):
        if stretch and (start - stretch[-1][2] > _HOLE or start + size - stretch[0][1] > _STRETCH):
            yield _read_stretch(storage, uri, stretch)
            stretch = []
        stretch.append((label, start, start + size))
    yield _read_stretch(storage, uri, stretch)


def _read_stretch(
    storage: Storage, uri: str, members: list[tuple[int, int, int]]
) -> list[tuple[int, bytes | Exception]]:
    first, last = members[0][1], members[-1][2]
    content = storage.read_range(uri, first, last)
    if len(content) < last - first:
        raise DataError(
            f"data.images: {uri} has become shorter since it was listed", "run `vgse check`, then run again"
        )
    return sorted((label, content[start - first : stop - first]) for label, start, stop in members)


def _page(rows: list[tuple[str, str, int, int, int, int]], uri: str) -> pa.Table:
    ids, classes, row, group, offset, size = zip(*rows, strict=True)
    return page(ids, classes, uri, row=row, row_group=group, offset=offset, size=size)


def _samples(source: WindowedFile, uri: str) -> Iterator[_Sample]:
    """The samples of a tar; the members of one lie side by side, as WebDataset demands."""
    sample: _Sample | None = None
    for member in _members(source, uri):
        folder, slash, base = member.name.removeprefix("./").rpartition("/")
        stem, _, extension = base.partition(".")
        if not member.isfile() or not extension or base.startswith("."):
            continue
        key = f"{folder}{slash}{stem}"
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        kind = extension.rpartition(".")[2].lower()
        if kind in IMAGE_SUFFIXES:
            if sample.image is not None:
                raise DataError(
                    f"data.images: {uri}: the sample {key} holds two images: {sample.image[0]} and {member.name}",
                    "keep one image per sample (the part of the name before its first dot)",
                )
            sample.image = (member.name.removeprefix("./"), member.offset_data, member.size)
        elif extension.lower() in ("cls", "txt", "json") and member.size <= _LARGEST_LABEL:
            sample.labels[extension.lower()] = source.read_at(member.offset_data, member.size).decode(
                "utf-8", "replace"
            )
    if sample is not None:
        yield sample


def _members(source: WindowedFile, uri: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # otherwise every header of the tar would stay in memory
                yield member
            # Python's reader takes a broken header for the end.
            rest = source.read_at(archive.offset, tarfile.BLOCKSIZE)
    except tarfile.ReadError as error:
        raise DataError(
            f"data.images: {uri} cannot be read as a tar file: {error}",
            "replace it by a whole, uncompressed tar (a .tar.gz or .tar.zst must be unpacked first)",
        ) from None
    if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE:
        raise DataError(f"data.images: {uri} is cut off or broken at byte {archive.offset}", "replace the file")


def _class_of(sample: _Sample, class_names: tuple[str, ...] | None, uri: str) -> str:
    """The class from .cls, a field of .json, or .txt, else the folder of the sample's key."""
    values: list[Any] = [sample.labels.get("cls"), _json_class(sample, uri), sample.labels.get("txt")]
    label = next((str(value).strip() for value in values if value is not None and str(value).strip()), "")
    if label and class_names is not None and label.isdecimal():
        if int(label) >= len(class_names):
            raise DataError(
                f"data.images: {uri}: the sample {sample.key} is of class number {label}, but data.class_names holds "
                f"{len(class_names)} names, counted from 0",
                "give the list of names that the numbers were made with",
            )
        return class_names[int(label)]
    folder = sample.key.rpartition("/")[0]
    if not label and not folder:
        raise DataError(
            f"data.images: {uri}: the sample {sample.key} has no class",
            f"add a member .cls or .txt, a .json with one of {', '.join(_JSON_FIELDS)}, or a folder in its name",
        )
    return label or folder.rpartition("/")[2]


def _json_class(sample: _Sample, uri: str) -> Any:
    if "json" not in sample.labels:
        return None
    try:
        values = json.loads(sample.labels["json"])
    except json.JSONDecodeError as error:
        raise DataError(
            f"data.images: {uri}: {sample.key}.json is not valid JSON: {error}", "mend or remove the member"
        ) from None
    return next((values[name] for name in _JSON_FIELDS if isinstance(values, dict) and name in values), None)

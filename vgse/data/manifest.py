"""The manifest: which images there are, each with a unique id, its class, its role and where its bytes lie.

One row per image: image_id, class_name, role (`train` or `test`), uri, row and row_group (number within a Parquet file
or tar, and the part of it that is read as one, else -1), offset and size (bytes within a tar, else -1; bytes, or -1
where the listing did not say), rank.
`rank` orders the images of a class and role by a digest of their id: an order that is random to the eye, the same on
every machine, and untouched by the listing. All subsets (held-out images, `images_per_class`, the images an oracle
sees) are cut by rank, so they nest and never change.

A million images are Arrow columns and NumPy arrays all the way, a few hundred bytes each; no step makes an object of
each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vgse.config import DataConfig
from vgse.data.readers import list_pages
from vgse.data.readers.class_numbers import read_class_numbers
from vgse.data.readers.xlsa17 import list_benchmark, read_benchmark_files
from vgse.data.splits import ClassSplit
from vgse.errors import DataError
from vgse.storage import Storage

COLUMNS = ("image_id", "class_name", "role", "uri", "row", "row_group", "offset", "size", "rank")
_ROLES = ("train", "test")
_ROWS_PER_DIGEST = 65_536


def build_manifest(storage: Storage, data: DataConfig, splits: Sequence[ClassSplit]) -> pd.DataFrame:
    """Lists every image of the splits' classes.

    Returns:
        A frame with `COLUMNS`, sorted by image_id.

    Raises:
        DataError: an empty class folder, Parquet without the needed columns, a broken tar, two images of one id, or a
            class without enough images to hold some out.
    """
    classes = sorted({name for split in splits for name in split.all})
    pages = [_of_classes(page, role, classes) for role, page in _listed(storage, data)]
    if not pages:
        raise DataError("data.images: no image was found", "check the locations and data.format")
    table = _sorted_by_id(pages)
    _check_once(table["image_id"])
    frame = _ranked(table, classes, data)
    # What pages and sorting took stays with Arrow otherwise, several times the manifest.
    pa.default_memory_pool().release_unused()
    return frame[list(COLUMNS)]


def list_images(storage: Storage, uri: str, layout: str = "auto") -> pd.DataFrame:
    """The images of all classes at one location, without roles and ranks, in the order in which they are found."""
    return pa.concat_tables(list_pages(storage, uri, layout)).to_pandas()


def manifest_digest(frame: pd.DataFrame) -> str:
    """A digest of which images, classes and roles there are; where the bytes lie does not enter."""
    digest = hashlib.sha256()
    for column in ("image_id", "class_name", "role"):
        for start in range(0, len(frame), _ROWS_PER_DIGEST):
            digest.update(b"\n" * (start > 0))
            digest.update("\n".join(frame[column].iloc[start : start + _ROWS_PER_DIGEST]).encode())
    return digest.hexdigest()[:16]


def manifest_table(frame: pd.DataFrame) -> pa.Table:
    """The manifest as it is stored."""
    return pa.Table.from_pandas(frame, preserve_index=False)


def manifest_from(table: pa.Table) -> pd.DataFrame:
    """The manifest as it was stored, also by versions that knew no tars."""
    return (
        table.to_pandas()
        .reindex(columns=COLUMNS)
        .fillna({"offset": -1, "size": -1})
        .astype({"offset": np.int64, "size": np.int64})
    )


def _listed(storage: Storage, data: DataConfig) -> Iterator[tuple[str, pa.Table]]:
    """(role, page) of all locations, their ids made unique by a prefix."""
    parts = [(uri, "train") for uri in data.images] + [(uri, "test") for uri in data.test_images]
    benchmark = read_benchmark_files(storage, data) if data.is_benchmark else None
    numbers = read_class_numbers(storage, data.class_names)
    for (uri, role), prefix in zip(parts, _prefixes([uri for uri, _ in parts]), strict=True):
        if benchmark is not None:
            found = list_benchmark(storage, uri, benchmark)
        else:
            found = ((role, page) for page in list_pages(storage, uri, data.format, numbers))
        for role_found, page in found:
            ids = pc.binary_join_element_wise(
                pa.scalar(prefix, pa.large_string()), page["image_id"], pa.scalar("", pa.large_string())
            )
            yield role_found, page.set_column(0, "image_id", ids)


def _of_classes(page: pa.Table, role: str, classes: Sequence[str]) -> pa.Table:
    """The page's rows of these classes, with class and role as numbers."""
    code = pc.index_in(page["class_name"], pa.array(classes, pa.large_string()))
    page = page.set_column(1, "class_name", code).append_column(
        "role", pa.repeat(pa.scalar(_ROLES.index(role)), len(page))
    )
    return page.filter(pc.is_valid(code))


def _sorted_by_id(pages: list[pa.Table]) -> pa.Table:
    """All rows, sorted; `pages` is emptied and the columns are done one after the other, so that no more than one of
    them is there twice."""
    columns = {
        field.name: pa.chunked_array([c for page in pages for c in page[field.name].chunks], field.type)
        for field in pages[0].schema
    }
    pages.clear()
    order = pc.sort_indices(columns["image_id"])
    for name in list(columns):
        columns[name] = columns.pop(name).combine_chunks().take(order)
    return pa.table(columns)


def _check_once(ids: pa.ChunkedArray) -> None:
    """Raises `DataError` where two of the sorted ids are the same."""
    same = pc.equal(ids[1:], ids[:-1])
    count = pc.sum(same).as_py() or 0
    if count:
        first = ids[1:].filter(same)[0]
        raise DataError(f"data.images: {count} image id(s) occur twice, e.g. {first}", "give each location once")


def _prefixes(uris: Sequence[str]) -> list[str]:
    """A prefix per location that makes ids unique: its last path component, numbered where two share it."""
    names = [uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".parquet").removesuffix(".tar") for uri in uris]
    return [f"{name}/" if names.count(name) == 1 else f"{name}-{i}/" for i, name in enumerate(names)]


def _ranked(table: pa.Table, classes: Sequence[str], data: DataConfig) -> pd.DataFrame:
    """The table with ranks, without the images over `images_per_class`, and some held out where none is given."""
    code, role = (table[name].to_numpy() for name in ("class_name", "role"))
    rank = _rank(table["image_id"], role * len(classes) + code)
    if data.images_per_class is not None:
        kept = rank < data.images_per_class
        table, code, role, rank = table.filter(pa.array(kept)), code[kept], role[kept], rank[kept]
    if not data.test_images and not data.is_benchmark:
        held = _held_out(code, rank, classes, data.held_out_fraction)
        role = held.astype(role.dtype)
        rank = np.where(held, rank - _fewest(rank, held, code, len(classes))[code], rank)
    names = [pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(values)).cast(pa.large_string())
             for numbers, values in ((code, classes), (role, _ROLES))]  # fmt: skip
    table = table.set_column(1, "class_name", names[0]).drop_columns("role").append_column("role", names[1])
    return table.append_column("rank", pa.array(rank)).to_pandas(split_blocks=True)


def _rank(ids: pa.ChunkedArray, group: np.ndarray) -> np.ndarray:
    """The number of every image among those of its group, in the order of a digest of the ids. Int64 (N,)."""
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _ROWS_PER_DIGEST):
        names = ids[start : start + _ROWS_PER_DIGEST].to_pylist()
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        keys[start : start + len(names)] = np.frombuffer(digests, ">u8")
    order = np.lexsort((keys, group))
    rows_of_group = np.bincount(group)
    first = np.cumsum(rows_of_group) - rows_of_group
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids)) - first[group[order]]
    return rank


def _held_out(code: np.ndarray, rank: np.ndarray, classes: Sequence[str], fraction: float) -> np.ndarray:
    """Which images are the last `fraction` of their class by rank, at least one of each. Bool (N,)."""
    count = np.bincount(code, minlength=len(classes))
    lonely = sorted(classes[number] for number in np.flatnonzero(count == 1).tolist())
    if lonely:
        raise DataError(
            f"data.images: {len(lonely)} class(es) have a single image, none can be held out: {', '.join(lonely[:10])}",
            "add images, or give data.test_images",
        )
    return rank >= (count - np.maximum(1, np.round(count * fraction)))[code]


def _fewest(rank: np.ndarray, held: np.ndarray, code: np.ndarray, classes: int) -> np.ndarray:
    """The lowest rank among the held-out images of every class. Int64 (C,)."""
    fewest = np.full(classes, np.iinfo(np.int64).max)
    np.minimum.at(fewest, code[held], rank[held])
    return fewest

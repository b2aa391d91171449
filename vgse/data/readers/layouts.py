"""Which layout a location has, and its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from vgse.data.readers.folder import FolderPages
from vgse.data.readers.pages import IMAGE_SUFFIXES, is_hidden, suffix
from vgse.data.readers.parquet import list_parquet
from vgse.data.readers.webdataset import list_tar
from vgse.errors import DataError
from vgse.storage import FileInfo, Storage

# Tars or Parquet files whose headers are read at once.
_FILES_AT_ONCE = 8


def list_pages(
    storage: Storage, uri: str, layout: str = "auto", class_names: tuple[str, ...] | None = None
) -> Iterator[pa.Table]:
    """Every image at a location, as pages of `PAGE_SCHEMA`.

    Args:
        storage: where it is.
        uri: the location: a folder or a single file.
        layout: `folder`, `parquet`, `webdataset`, or `auto`: Parquet where there are .parquet files, WebDataset where
            there are .tar files and no images, else a folder tree.
        class_names: what numbers stand for where shards give them as classes.

    Raises:
        DataError: there is nothing of that layout, or a file cannot be used.
        StorageError: there is nothing at all.
    """
    root = storage.absolute(uri)
    if layout == "folder":
        yield from _folder(storage, root)
    elif layout == "auto":
        yield from _whatever_is_there(storage, root, class_names)
    else:
        kind = {"parquet": "parquet", "webdataset": "tar"}[layout]
        files = sorted(f.uri for found in _visible(storage, root) for f in found if suffix(f.uri) == kind)
        if not files:
            raise DataError(f"data.images: no .{kind} file at {uri}", "check the location or data.format")
        yield from _shards(storage, files, kind, class_names)


def _folder(storage: Storage, root: str) -> Iterator[pa.Table]:
    rows = FolderPages(storage, root)
    for files in _visible(storage, root):
        found = rows.page(files)
        if found is not None:
            yield found
    rows.check()


def _whatever_is_there(storage: Storage, root: str, class_names: tuple[str, ...] | None) -> Iterator[pa.Table]:
    """Rows of a folder tree are kept, as Arrow columns, until the last name has shown that there are no shards."""
    rows, pages = FolderPages(storage, root), []
    shards: dict[str, list[str]] = {"parquet": [], "tar": []}
    has_images = False
    for files in _visible(storage, root):
        for file in files:
            kind = suffix(file.uri)
            has_images = has_images or kind in IMAGE_SUFFIXES
            if kind in shards:
                shards[kind].append(file.uri)
        found = None if shards["parquet"] else rows.page(files)
        if found is not None:
            pages.append(found)
    if shards["parquet"]:
        yield from _shards(storage, sorted(shards["parquet"]), "parquet", class_names)
    elif shards["tar"] and not has_images:
        yield from _shards(storage, sorted(shards["tar"]), "tar", class_names)
    else:
        yield from pages
        rows.check()


def _visible(storage: Storage, root: str) -> Iterator[Sequence[FileInfo]]:
    for files in storage.find_pages(root):
        yield [file for file in files if not is_hidden(file.uri)]


def _shards(storage: Storage, files: list[str], kind: str, class_names: tuple[str, ...] | None) -> Iterator[pa.Table]:
    read: Callable[[str], Iterator[pa.Table]] = partial(
        {"parquet": list_parquet, "tar": list_tar}[kind], storage, class_names=class_names
    )
    pool = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="list")
    try:
        for pages in pool.map(lambda uri: list(read(uri)), files):
            yield from pages
    finally:
        pool.shutdown(cancel_futures=True)

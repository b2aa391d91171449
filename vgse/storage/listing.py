"""Every file below a location, page by page, so that a million of them never stand in memory at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vgse.storage.uris import FileInfo, with_protocol

if TYPE_CHECKING:
    from vgse.storage.s3_requests import S3Requests


def local_pages(root: str) -> Iterator[list[FileInfo]]:
    """Files below a local folder, a page per folder; links are followed, but not round in circles.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if os.path.isfile(root):
        yield [FileInfo(root, os.path.getsize(root))]
        return
    real = os.path.realpath(root)
    waiting = [(root, real, frozenset({real}))]
    while waiting:
        folder, real, above = waiting.pop()
        page = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    page.append(FileInfo(entry.path, entry.stat().st_size))
                elif entry.is_dir():
                    place = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
                    if place not in above:
                        waiting.append((entry.path, place, above | {place}))
        yield page


def s3_pages(requests: S3Requests, uri: str, path: str) -> Iterator[list[FileInfo]]:
    """Objects below `path` (`bucket/prefix`), or that object itself; the folders right below it are listed side by
    side, since a server gives 1,000 keys an answer and takes its time for each.

    Raises:
        FileNotFoundError: there is nothing.
    """
    bucket, _, key = path.strip("/").partition("/")
    prefix = f"{key}/" if key else ""
    folders: list[str] = []
    nothing, after = True, ""
    while True:
        objects, prefixes, after = requests.list_page(bucket, prefix, delimiter="/", after=after)
        nothing = nothing and not objects and not prefixes
        folders += prefixes
        yield _files(uri, bucket, objects)
        if not after:
            break
    if nothing:
        same, _, _ = requests.list_page(bucket, key)
        page = _files(uri, bucket, [found for found in same if found[0] == key])
        if not page:
            raise FileNotFoundError(path)
        yield page
    # A few folders at a time, so that what has been listed waits in memory for a few folders only.
    waiting: deque[Any] = deque()
    for folder in folders:
        waiting.append(requests.submit(_first_page, requests, bucket, folder))
        if len(waiting) >= requests.at_once:
            yield from _all_pages(requests, uri, bucket, *waiting.popleft().result())
    while waiting:
        yield from _all_pages(requests, uri, bucket, *waiting.popleft().result())


def walked_pages(fs: Any, uri: str, path: str) -> Iterator[list[FileInfo]]:
    """Files below a path of any other fsspec filesystem, a page per folder.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if fs.isfile(path):
        yield [FileInfo(uri, int(fs.size(path) or 0))]
        return
    if not fs.exists(path):
        raise FileNotFoundError(path)
    for _, _, files in fs.walk(path, detail=True):
        yield [
            FileInfo(with_protocol(uri, entry["name"]), int(entry["size"] or 0))
            for entry in files.values()
            if entry["type"] == "file" and not entry["name"].endswith("/")
        ]


def _first_page(requests: S3Requests, bucket: str, folder: str) -> tuple[str, list[tuple[str, int]], str]:
    objects, _, after = requests.list_page(bucket, folder)
    return folder, objects, after


def _all_pages(
    requests: S3Requests, uri: str, bucket: str, folder: str, objects: list[tuple[str, int]], after: str
) -> Iterator[list[FileInfo]]:
    yield _files(uri, bucket, objects)
    while after:
        objects, _, after = requests.list_page(bucket, folder, after=after)
        yield _files(uri, bucket, objects)


def _files(uri: str, bucket: str, objects: list[tuple[str, int]]) -> list[FileInfo]:
    """Without the empty objects that stand for folders."""
    return [FileInfo(with_protocol(uri, f"{bucket}/{key}"), size) for key, size in objects if not key.endswith("/")]

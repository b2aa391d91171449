"""Whole files, ranges, listings and tables at URIs of any store."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import IO, TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vgse.config import StorageConfig
from vgse.errors import StorageError
from vgse.storage.explaining import explained
from vgse.storage.filesystems import S3, filesystem, s3_requests, with_environment
from vgse.storage.listing import local_pages, s3_pages, walked_pages
from vgse.storage.ranged_file import RangedFile
from vgse.storage.uris import FileInfo, protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from vgse.storage.s3_requests import S3Requests

_PARTIAL = ".partial"
_UPLOAD_PART = 16 << 20
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}


class _ExplainingFile(io.FileIO):
    """A file to write whose errors are about `uri`, which it becomes."""

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path, "wb")
        self._uri = uri

    def write(self, data: ReadableBuffer, /) -> int:
        with explained(self._uri, writing=True):
            return super().write(data)


class Storage:
    """Reads and writes whole files at URIs.

    Args:
        config: how s3 is reached. What it leaves empty is taken from the AWS variables of the process that makes the
            `Storage` (so that workers of a cluster started elsewhere see the same), else from the worker's own AWS
            files or instance role.
    """

    def __init__(self, config: StorageConfig | None = None) -> None:
        self._config = with_environment(config or StorageConfig())

    def __repr__(self) -> str:
        return f"Storage(endpoint_url={self._config.endpoint_url!r})"

    # ---- reading
    def read_bytes(self, uri: str) -> bytes:
        """The whole file.

        Raises:
            StorageError: it does not exist or cannot be reached.
        """
        with explained(uri):
            if protocol(uri) in S3:
                return self._requests.get(_s3_path(uri))
            fs, path = self._open_fs(uri)
            return fs.cat_file(path)

    def read_range(self, uri: str, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, fewer where the file ends before.

        Raises:
            StorageError: it does not exist or cannot be reached.
        """
        with explained(uri):
            if protocol(uri) in S3:
                return self._requests.get(_s3_path(uri), start, stop)
            fs, path = self._open_fs(uri)
            return fs.cat_file(path, start=start, end=stop)

    def read_many(self, uris: Sequence[str]) -> list[bytes | Exception]:
        """The files' bytes in order, read concurrently where the store can; an unreadable one is its exception."""
        if not uris:
            return []
        if protocol(uris[0]) in S3:
            return self._requests.get_many([_s3_path(uri) for uri in uris])
        fs, _ = self._open_fs(uris[0])
        paths = [self._path(fs, uri) for uri in uris]
        # fsspec gives a dictionary keyed by path, or plain bytes for a single local file.
        found = fs.cat(paths, on_error="return")
        return [found[path] for path in paths] if isinstance(found, dict) else [found]

    def open(self, uri: str) -> IO[bytes]:
        """A readable, seekable file object (for Parquet footers and single row groups); reads fetch what they ask for.

        fsspec's own read-ahead would fetch tens of megabytes around every row group.
        """
        with explained(uri):
            if protocol(uri) in S3:
                return RangedFile(self._requests, _s3_path(uri))  # type: ignore[return-value]
            fs, path = self._open_fs(uri)
            return fs.open(path, "rb", **({} if protocol(uri) == "file" else {"cache_type": "none"}))

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        with explained(uri):
            fs, path = self._open_fs(uri)
            return fs.exists(path)

    def list_names(self, uri: str) -> list[str]:
        """Names of the files and folders directly below `uri`, sorted; empty where there is nothing.

        Files of writes that were killed on the way are left out.
        """
        with explained(uri):
            fs, path = self._open_fs(uri)
            try:
                names = (name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False) if name != path)
                return sorted(name for name in names if not name.endswith(_PARTIAL))
            except FileNotFoundError:
                return []

    def list_folders(self, uri: str) -> list[str]:
        """Names of the folders directly below `uri`, sorted.

        Raises:
            StorageError: there is nothing at `uri`.
        """
        with explained(uri):
            fs, path = self._open_fs(uri)
            below = [entry for entry in fs.ls(path, detail=True) if entry["name"].rstrip("/") != path.rstrip("/")]
            return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in below if e["type"] == "directory")

    def find(self, uri: str) -> Iterator[FileInfo]:
        """Every file below `uri` (or `uri` itself where it is a file), sorted by name.

        Raises:
            StorageError: there is nothing at `uri`.
        """
        yield from sorted(file for page in self.find_pages(uri) for file in page)

    def find_pages(self, uri: str) -> Iterator[list[FileInfo]]:
        """What `find` gives, in no certain order and some thousand files at a time, for locations with millions.

        Raises:
            StorageError: there is nothing at `uri`.
        """
        with explained(uri):
            if protocol(uri) in S3:
                yield from s3_pages(self._requests, uri, _s3_path(uri))
            elif protocol(uri) == "file":
                yield from local_pages(self.absolute(uri))
            else:
                fs, path = self._open_fs(uri)
                yield from walked_pages(fs, uri, path)

    def stamp(self, uri: str) -> str:
        """What changes when the file does (size and time, or the store's tag); empty where there is no file."""
        if not self.exists(uri):
            return ""
        with explained(uri):
            fs, path = self._open_fs(uri)
            return str(fs.ukey(path))

    def local_copy(self, uri: str) -> Path:
        """A local path with the file's content: the file itself, or a download kept for this machine's next use."""
        if protocol(uri) == "file":
            path = Path(self.absolute(uri))
            if not path.is_file():
                raise StorageError(f"{uri} does not exist", "check the path; it is taken from the working directory")
            return path
        with explained(uri):
            fs, path_in_store = self._open_fs(uri)
            stamp = fsspec.utils.tokenize(uri, fs.ukey(path_in_store))[:16]
            target = Path(gettempdir()) / f"vgse-cache-{os.getuid()}" / f"{stamp}-{uri.rsplit('/', 1)[-1]}"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
                fs.get_file(path_in_store, str(partial))
                partial.replace(target)
        return target

    # ---- writing
    def write_bytes(self, uri: str, data: bytes) -> None:
        """Writes the whole file at once: readers see the old content or the new, never a part."""
        with explained(uri, writing=True):
            fs, path = self._open_fs(uri)
            if protocol(uri) in _OBJECT_STORES:
                fs.pipe_file(path, data)
                return
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            partial = f"{path}.{uuid.uuid4().hex}{_PARTIAL}"
            try:
                fs.pipe_file(partial, data)
                os.replace(partial, path) if protocol(uri) == "file" else fs.mv(partial, path)
            except BaseException:
                if fs.exists(partial):
                    fs.rm_file(partial)
                raise

    @contextmanager
    def writing(self, uri: str) -> Iterator[IO[bytes]]:
        """A file to write piece by piece, for what should not be held in memory whole: it appears whole at the end of
        the block, or not at all where the block raises. What goes to a store is collected on local disk first.

        Raises:
            StorageError: it cannot be written. What the block raises of its own passes as it is.
        """
        local = protocol(uri) == "file"
        with explained(uri, writing=True):
            fs, path = self._open_fs(uri)
            if local:
                fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            partial = Path(f"{path if local else Path(gettempdir()) / 'vgse'}.{uuid.uuid4().hex}{_PARTIAL}")
            sink = io.BufferedWriter(_ExplainingFile(partial, uri))
        try:
            with sink:
                yield sink
            with explained(uri, writing=True):
                partial.replace(path) if local else self._upload(partial, uri)
        finally:
            partial.unlink(missing_ok=True)

    def _upload(self, source: Path, uri: str) -> None:
        fs, path = self._open_fs(uri)
        if protocol(uri) not in _OBJECT_STORES:
            self.write_bytes(uri, source.read_bytes())
            return
        # In parts, few at a time; a store shows an object when its last part has arrived.
        parts = {"chunksize": _UPLOAD_PART, "max_concurrency": 2} if protocol(uri) in S3 else {}
        fs.put_file(str(source), path, **parts)

    def remove_tree(self, uri: str) -> None:
        """Removes a file or folder with all below it; nothing there is no error."""
        with explained(uri, writing=True):
            fs, path = self._open_fs(uri)
            if fs.exists(path):
                fs.rm(path, recursive=True)

    # ---- tables
    def read_table(self, uri: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file as a table."""
        return pq.read_table(io.BytesIO(self.read_bytes(uri)), columns=list(columns) if columns else None)

    def read_rows(self, uri: str, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """The rows of a Parquet file with these numbers (ascending), reading no other row groups than theirs."""
        with explained(uri), self.open(uri) as source:
            reader = pq.ParquetFile(source)
            sizes = [reader.metadata.row_group(g).num_rows for g in range(reader.metadata.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = np.unique(np.searchsorted(starts, rows, side="right") - 1)
            table = reader.read_row_groups(groups.tolist(), columns=list(columns))
        held = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups]) if len(groups) else rows
        return table.take(np.searchsorted(held, rows))

    def write_table(
        self, uri: str, table: pa.Table, *, compression: str = "zstd", row_group_size: int | None = None
    ) -> int:
        """Writes a table as one Parquet file and returns its size in bytes."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression=compression, row_group_size=row_group_size)
        self.write_bytes(uri, sink.getvalue())
        return sink.tell()

    # ---- locations
    def absolute(self, uri: str) -> str:
        """`uri` with a plain path made absolute, since workers start in other directories."""
        return str(Path(uri.removeprefix("file://")).expanduser().absolute()) if protocol(uri) == "file" else uri

    def _path(self, fs: Any, uri: str) -> str:
        return fs._strip_protocol(self.absolute(uri))

    def _open_fs(self, uri: str) -> tuple[Any, str]:
        fs = filesystem(protocol(uri), self._config)
        return fs, self._path(fs, uri)

    @property
    def _requests(self) -> S3Requests:
        return s3_requests(self._config)


def _s3_path(uri: str) -> str:
    """`bucket/key` of an s3 URI."""
    return uri.split("://", 1)[1].strip("/")

"""The only door to bytes: local paths, s3:// (through s3fs) and any other fsspec URI.

Writes appear whole or not at all: a local file is written beside its target and renamed, an object store's put is
atomic by itself, anything else is written under a temporary name and moved. Requests are retried with growing pauses
and have a deadline. A `Storage` can be pickled to workers; credentials travel in memory only.
"""

from __future__ import annotations

import functools
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SecretStr

from vgse.config import StorageConfig
from vgse.errors import StorageError

_PARTIAL = ".partial"
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"}
_FROM_ENVIRONMENT = {
    "key": "AWS_ACCESS_KEY_ID",
    "secret": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
}


@dataclass(frozen=True)
class FileInfo:
    """One file found by `Storage.find`: its URI and its size in bytes."""

    uri: str
    size: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path components appended by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def protocol(uri: str) -> str:
    """The scheme of a URI, `file` for a plain path."""
    return uri.split("://", 1)[0] if "://" in uri else "file"


class Storage:
    """Reads and writes whole files at URIs.

    Args:
        config: how s3 is reached. What it leaves empty is taken from the AWS variables of the process that makes the
            `Storage` (so that workers of a cluster started elsewhere see the same), else from the worker's own AWS
            files or instance role.
    """

    def __init__(self, config: StorageConfig | None = None) -> None:
        config = config or StorageConfig()
        given: dict[str, Any] = {}
        if config.key is None and not config.anonymous:
            given = {
                field: SecretStr(os.environ[name]) for field, name in _FROM_ENVIRONMENT.items() if os.environ.get(name)
            }
        endpoint = config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        self._config = config.model_copy(update={**given, "endpoint_url": endpoint, "region": region})

    def __repr__(self) -> str:
        return f"Storage(endpoint_url={self._config.endpoint_url!r})"

    # ---- reading
    def read_bytes(self, uri: str) -> bytes:
        """The whole file.

        Raises:
            StorageError: it does not exist or cannot be reached.
        """
        with _explained(uri):
            fs, path = self._open_fs(uri)
            return fs.cat_file(path)

    def read_many(self, uris: Sequence[str]) -> list[bytes | Exception]:
        """The files' bytes in order, read concurrently where the store can; an unreadable one is its exception."""
        if not uris:
            return []
        fs, _ = self._open_fs(uris[0])
        paths = [self._path(fs, uri) for uri in uris]
        # fsspec gives a dictionary keyed by path, or plain bytes for a single local file.
        found = fs.cat(paths, on_error="return")
        return [found[path] for path in paths] if isinstance(found, dict) else [found]

    def open(self, uri: str) -> IO[bytes]:
        """A readable, seekable file object (for Parquet footers and single row groups); reads fetch what they ask for.

        fsspec's own read-ahead would fetch tens of megabytes around every row group.
        """
        with _explained(uri):
            fs, path = self._open_fs(uri)
            return fs.open(path, "rb", **({} if protocol(uri) == "file" else {"cache_type": "none"}))

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        with _explained(uri):
            fs, path = self._open_fs(uri)
            return fs.exists(path)

    def list_names(self, uri: str) -> list[str]:
        """Names of the files and folders directly below `uri`, sorted; empty where there is nothing.

        Files of writes that were killed on the way are left out.
        """
        with _explained(uri):
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
        with _explained(uri):
            fs, path = self._open_fs(uri)
            below = [entry for entry in fs.ls(path, detail=True) if entry["name"].rstrip("/") != path.rstrip("/")]
            return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in below if e["type"] == "directory")

    def find(self, uri: str) -> Iterator[FileInfo]:
        """Every file below `uri` (or `uri` itself where it is a file), sorted by name.

        Raises:
            StorageError: there is nothing at `uri`.
        """
        with _explained(uri):
            fs, path = self._open_fs(uri)
            found = fs.find(path, detail=True)
            if not found and not fs.exists(path):
                raise FileNotFoundError(path)
        for name in sorted(found):
            if found[name]["type"] == "file" and not name.endswith("/"):
                yield FileInfo(_with_protocol(uri, name), int(found[name]["size"] or 0))

    def stamp(self, uri: str) -> str:
        """What changes when the file does (size and time, or the store's tag); empty where there is no file."""
        if not self.exists(uri):
            return ""
        with _explained(uri):
            fs, path = self._open_fs(uri)
            return str(fs.ukey(path))

    def local_copy(self, uri: str) -> Path:
        """A local path with the file's content: the file itself, or a download kept for this machine's next use."""
        if protocol(uri) == "file":
            path = Path(self.absolute(uri))
            if not path.is_file():
                raise StorageError(f"{uri} does not exist", "check the path; it is taken from the working directory")
            return path
        with _explained(uri):
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
        with _explained(uri, writing=True):
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

    def remove_tree(self, uri: str) -> None:
        """Removes a file or folder with all below it; nothing there is no error."""
        with _explained(uri, writing=True):
            fs, path = self._open_fs(uri)
            if fs.exists(path):
                fs.rm(path, recursive=True)

    # ---- tables
    def read_table(self, uri: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file as a table."""
        return pq.read_table(io.BytesIO(self.read_bytes(uri)), columns=list(columns) if columns else None)

    def read_rows(self, uri: str, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """The rows of a Parquet file with these numbers (ascending), reading no other row groups than theirs."""
        with _explained(uri), self.open(uri) as source:
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
        fs = _filesystem(protocol(uri), self._s3_options() if protocol(uri) in {"s3", "s3a"} else (), os.getpid())
        return fs, self._path(fs, uri)

    def _s3_options(self) -> tuple[tuple[str, Any], ...]:
        config = self._config
        reveal = {
            name: secret and secret.get_secret_value()
            for name, secret in (("key", config.key), ("secret", config.secret), ("token", config.token))
        }
        return (*reveal.items(), ("endpoint_url", config.endpoint_url), ("region", config.region),
                ("anon", config.anonymous), ("retries", config.retries), ("timeout_s", config.timeout_s))  # fmt: skip


@functools.lru_cache(maxsize=16)
def _filesystem(scheme: str, s3_options: tuple[tuple[str, Any], ...], pid: int) -> Any:
    """One filesystem object per process (`pid` keeps a forked child from sharing its parent's connections)."""
    if not s3_options:
        try:
            return fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{scheme}:// cannot be opened: {error}", f"install the fsspec package for {scheme}"
            ) from None
    options = dict(s3_options)
    seconds, retries, region = options.pop("timeout_s"), options.pop("retries"), options.pop("region")
    return fsspec.filesystem(
        "s3",
        **options,
        use_listings_cache=False,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "connect_timeout": min(10.0, seconds),
            "read_timeout": seconds,
            # Servers other than AWS answer a range with the checksum of the whole object.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "retries": {"max_attempts": retries, "mode": "standard"},
        },
    )


def _with_protocol(uri: str, name: str) -> str:
    return name if protocol(uri) == "file" else f"{protocol(uri)}://{name.lstrip('/')}"


@contextmanager
def _explained(uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turns the many exceptions of object stores into one `StorageError` that names the location and the remedy."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        explanation = _explain(uri, error, writing)
        if explanation is None:
            raise
        raise explanation from None


def _explain(uri: str, error: Exception, writing: bool) -> StorageError | None:
    text = f"{type(error).__name__}: {error}"
    refused = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "AccessDenied", "403")
    if any(code in text for code in refused) or (isinstance(error, PermissionError) and protocol(uri) in {"s3", "s3a"}):
        return StorageError(
            f"{uri}: access refused", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role's rights"
        )
    if "NoCredentials" in text or "Unable to locate credentials" in text:
        return StorageError(
            f"{uri}: no credentials found", "set the AWS variables or files, or storage.anonymous for a public bucket"
        )
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return StorageError(f"{uri}: the bucket does not exist", "check the bucket's name and storage.endpoint_url")
    if "EndpointConnectionError" in text or "ConnectTimeout" in text or isinstance(error, ConnectionError):
        return StorageError(
            f"{uri}: the server cannot be reached", "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network"
        )
    if isinstance(error, FileNotFoundError):
        what = "cannot be written: its bucket or folder does not exist" if writing else "does not exist"
        return StorageError(f"{uri} {what}", "check the location")
    if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError)):
        return StorageError(f"{uri}: {error}", "check the location and its rights")
    if isinstance(error, OSError):
        return StorageError(f"{uri}: {text}", "check the location, free space and the network")
    return None

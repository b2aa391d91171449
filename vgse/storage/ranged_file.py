"""A file in S3 that is read a range at a time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vgse.storage.s3_requests import S3Requests

# The end comes with the opening: a Parquet file's footer lies there, and PyArrow reads this much of it first.
_TAIL = 64 * 1024


class RangedFile(io.RawIOBase):
    """Readable and seekable; each read is one request for exactly what it asks for.

    Args:
        requests: the store.
        path: `bucket/key`.
    """

    def __init__(self, requests: S3Requests, path: str) -> None:
        self._requests, self._path = requests, path
        self._tail, self.size = requests.get_tail(path, _TAIL)
        self._position = 0

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes from the present position, all that is left for -1."""
        start = self._position
        stop = self.size if size is None or size < 0 else min(self.size, start + size)
        if start >= stop:
            return b""
        self._position = stop
        tail_start = self.size - len(self._tail)
        if start >= tail_start:
            return self._tail[start - tail_start : stop - tail_start]
        return self._requests.get(self._path, start, stop)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer`, and says how far."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence])
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

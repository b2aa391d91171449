"""A file that is skipped through: headers here and there, little of what lies between."""

from __future__ import annotations

import io
from typing import IO

from vgse.storage.uris import protocol

# A request to a store costs about as much time as this many bytes. So where a tar's members are smaller, reading
# through is faster than asking for each header; where they are larger, only the headers are asked for.
_READ_THROUGH = 2 << 20
_HEADERS = 16 << 10
_MEMBERS_LARGER_THAN = 512 << 10


class WindowedFile(io.RawIOBase):
    """A seekable file that fetches a window around what is asked for and keeps it.

    Args:
        source: the file; left open.
        uri: where it is: local files are read in small windows, since skipping costs nothing there.
    """

    def __init__(self, source: IO[bytes], uri: str) -> None:
        self._source, self._local = source, protocol(uri) == "file"
        self._size = source.seek(0, io.SEEK_END)
        self._position, self._start, self._window = 0, 0, b""
        self._fetched = 0

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes from the present position, all that is left for -1."""
        size = self._size if size is None or size < 0 else size
        content = self.read_at(self._position, size)
        self._position += len(content)
        return content

    def read_at(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`; the position stays."""
        stop = min(self._size, start + size)
        if start >= stop:
            return b""
        if not self._start <= start or stop > self._start + len(self._window):
            self._fetch(start, stop)
        return self._window[start - self._start : stop - self._start]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
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

    def _fetch(self, start: int, stop: int) -> None:
        skipped = start - self._start - len(self._window)
        large = self._local or skipped > _MEMBERS_LARGER_THAN
        length = 4 * 1024 if self._local else _HEADERS if large else _READ_THROUGH
        self._source.seek(start)
        self._window = self._source.read(max(stop - start, length)) or b""
        self._start = start

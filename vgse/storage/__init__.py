"""The only door to bytes: local paths, s3:// and any other fsspec URI.

Writes appear whole or not at all: a local file is written beside its target and renamed, an object store's put is
atomic by itself, anything else is written under a temporary name and moved. Requests are retried with growing pauses
and have a deadline. A `Storage` can be pickled to workers; credentials travel in memory only.
"""

from vgse.storage.storage import Storage
from vgse.storage.uris import FileInfo, join, protocol

__all__ = ["FileInfo", "Storage", "join", "protocol"]

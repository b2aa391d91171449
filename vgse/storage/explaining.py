"""The many exceptions of object stores as one that names the location and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vgse.errors import StorageError
from vgse.storage.uris import protocol

# A code of its own, since 403 may well stand inside the name of a file.
_REFUSED = re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|AccessDenied|\b403\b")


@contextmanager
def explained(uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turns what goes wrong inside into a `StorageError` about `uri`."""
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
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return StorageError(f"{uri}: the bucket does not exist", "check the bucket's name and storage.endpoint_url")
    if isinstance(error, FileNotFoundError):
        what = "cannot be written: its bucket or folder does not exist" if writing else "does not exist"
        return StorageError(f"{uri} {what}", "check the location")
    if _REFUSED.search(text) or (isinstance(error, PermissionError) and protocol(uri) in {"s3", "s3a"}):
        return StorageError(
            f"{uri}: access refused", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role's rights"
        )
    if "NoCredentials" in text or "Unable to locate credentials" in text:
        return StorageError(
            f"{uri}: no credentials found", "set the AWS variables or files, or storage.anonymous for a public bucket"
        )
    if "EndpointConnectionError" in text or "ConnectTimeout" in text or isinstance(error, ConnectionError):
        return StorageError(
            f"{uri}: the server cannot be reached", "check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network"
        )
    if isinstance(error, (PermissionError, NotADirectoryError, IsADirectoryError)):
        return StorageError(f"{uri}: {error}", "check the location and its rights")
    if isinstance(error, OSError):
        return StorageError(f"{uri}: {text}", "check the location, free space and the network")
    return None

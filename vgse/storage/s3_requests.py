"""Signed GET requests to S3 over pooled connections: what s3fs does at a quarter of its CPU time per object.

botocore finds credentials and endpoint, signs and sends; only its long way from a Python call to a request is left out.
Writing, and whatever is asked for seldom, stays with s3fs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree

import botocore.session
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import HTTPClientError, NoCredentialsError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

T = TypeVar("T")

# Enough to hide 20 to 100 ms of latency behind the work on what has come.
_CONCURRENT_REQUESTS = 32
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 20.0
_WORTH_ANOTHER_TRY = frozenset({429, 500, 502, 503, 504})


class S3Requests:
    """Reads and lists objects; safe to use from many threads. `at_once` is the number of its own.

    Args:
        key, secret, token: credentials; without a key, those of the AWS files or the instance's role.
        endpoint_url, region: else those of the AWS files, else AWS's own.
        anon: send unsigned requests.
        retries: how often a request is sent again after it failed on the way or the server was busy.
        timeout_s: seconds without an answer after which a request counts as failed.
    """

    def __init__(
        self, *, key: str | None, secret: str | None, token: str | None, endpoint_url: str | None,
        region: str | None, anon: bool, retries: int, timeout_s: float,
    ) -> None:  # fmt: skip
        session = botocore.session.get_session()
        if key is not None:
            session.set_credentials(key, secret, token)
        self._credentials = None if anon else session.get_credentials()
        self._unsigned, self._retries, self.at_once = anon, retries, _CONCURRENT_REQUESTS
        self._own_endpoint = endpoint_url is not None
        if endpoint_url is None:
            # This client is asked for nothing but where it would send requests.
            unused = session.create_client("s3", region_name=region, config=Config(signature_version=UNSIGNED))
            endpoint_url, region = unused.meta.endpoint_url, unused.meta.region_name
        region = region or session.get_config_variable("region")
        self._endpoint = endpoint_url.rstrip("/")
        self._region = "us-east-1" if region in (None, "aws-global") else region
        self._region_of: dict[str, str] = {}
        self._http = URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(self._endpoint),
            timeout=(min(10.0, timeout_s), timeout_s),
            max_pool_connections=2 * _CONCURRENT_REQUESTS,
        )
        self._pool = ThreadPoolExecutor(_CONCURRENT_REQUESTS, thread_name_prefix="s3")

    def get(self, path: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The object `bucket/key`, or its bytes from `start` up to `stop`.

        Raises:
            FileNotFoundError, PermissionError, ConnectionError, OSError: as the server's answer (or silence) means.
        """
        span = {} if start is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        headers, content = self._send(path, headers=span)
        # A server that knows no ranges sends the whole. (The status says less: some send a range as 200.)
        return content if "Content-Range" in headers else content[start:stop]

    def get_tail(self, path: str, size: int) -> tuple[bytes, int]:
        """The last `size` bytes of an object (all of a smaller one), and how many it has in all."""
        try:
            headers, content = self._send(path, headers={"Range": f"bytes=-{size}"})
        except OutOfRangeError:
            # The object is empty, or smaller than asked for, which some servers refuse as well.
            content = self.get(path)
            return content, len(content)
        return content, int(headers.get("Content-Range", f"/{len(content)}").rsplit("/", 1)[1])

    def get_many(self, paths: Sequence[str]) -> list[bytes | Exception]:
        """The objects' bytes in order, many requests at once; an unreadable one is its exception."""
        return list(self._pool.map(self._get_or_error, paths))

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """A call of `function` by one of this store's threads (which must not wait for another of them)."""
        return self._pool.submit(function, *arguments)

    def list_page(
        self, bucket: str, prefix: str, *, delimiter: str = "", after: str = ""
    ) -> tuple[list[tuple[str, int]], list[str], str]:
        """One page (at most 1,000 entries) of the objects below a prefix.

        Returns:
            (key, size) of objects; prefixes up to `delimiter`; what to give as `after` for the next page, or "".
        """
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
        query |= {"delimiter": delimiter} if delimiter else {}
        query |= {"continuation-token": after} if after else {}
        _, content = self._send(bucket, query=query)
        return _parse_page(content)

    def _get_or_error(self, path: str) -> bytes | Exception:
        try:
            return self.get(path)
        except Exception as error:
            return error

    def _send(
        self, path: str, *, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and content of an answer that is no error."""
        bucket, failed = path.split("/", 1)[0], 0
        while True:
            region = self._region_of.get(bucket, self._region)
            try:
                status, got, content = self._send_once(path, query or {}, headers or {}, region)
            except (HTTPClientError, ConnectionError) as error:
                if failed == self._retries:
                    raise ConnectionError(f"{path}: {type(error).__name__}") from None
            else:
                if status in (200, 206):
                    return got, content
                if self._learnt_region(bucket, region, status, got):
                    continue
                if failed == self._retries or status not in _WORTH_ANOTHER_TRY:
                    raise _error(status, path, content)
            time.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failed) * random.uniform(0.5, 1.0))
            failed += 1

    def _send_once(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], region: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        elsewhere = region != self._region and not self._own_endpoint
        endpoint = f"https://s3.{region}.amazonaws.com" if elsewhere else self._endpoint
        url = f"{endpoint}/{quote(path, safe='/~')}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        request = AWSRequest("GET", url, headers=dict(headers))
        if not self._unsigned:
            if self._credentials is None:
                raise NoCredentialsError
            S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", region).add_auth(request)
        answer = self._http.send(request.prepare())
        content = answer.content
        length = answer.headers.get("Content-Length")
        if length is not None and len(content) != int(length):
            raise ConnectionError(f"{path}: {len(content)} of {length} bytes came")
        return answer.status_code, answer.headers, content

    def _learnt_region(self, bucket: str, asked: str, status: int, headers: Mapping[str, str]) -> bool:
        """S3 tells where a bucket is when it is asked for in another region; True where that was so."""
        found = headers.get("x-amz-bucket-region")
        # Once a bucket is known to be elsewhere, another answer would lead round in circles.
        if status not in (301, 307, 400, 403) or found in (None, asked, self._region) or asked != self._region:
            return False
        self._region_of[bucket] = found
        return True


class OutOfRangeError(OSError):
    """A range was asked of an object that has no byte there."""


def _error(status: int, path: str, content: bytes) -> OSError:
    code = ElementTree.fromstring(content).findtext("Code", "") if content.startswith(b"<?xml") else ""
    text = f"{path}: HTTP {status} {code}".rstrip()
    if status == 404:
        return FileNotFoundError(text)
    if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
        return PermissionError(text)
    return OutOfRangeError(text) if status == 416 else OSError(text)


def _parse_page(content: bytes) -> tuple[list[tuple[str, int]], list[str], str]:
    root = ElementTree.fromstring(content)
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    plain = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    objects = [
        (plain(entry.findtext(f"{space}Key", "")), int(entry.findtext(f"{space}Size", "0")))
        for entry in root.iter(f"{space}Contents")
    ]
    prefixes = [plain(e.findtext(f"{space}Prefix", "")) for e in root.iter(f"{space}CommonPrefixes")]
    more = root.findtext(f"{space}IsTruncated") == "true"
    return objects, prefixes, root.findtext(f"{space}NextContinuationToken", "") if more else ""

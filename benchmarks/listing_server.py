"""An S3 server that only lists: ListObjectsV2 over made names, a thousand keys an answer, as a bucket of 1.3 M images
would give them. Nothing is kept in memory but the page being written.

    python -m benchmarks.listing_server --port 9000 --classes 1000 --per-class 1300
"""

from __future__ import annotations

import argparse
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

PAGE = 1000
PREFIX = "train/"


def class_name(number: int) -> str:
    """A WordNet-like class id."""
    return f"n{1_440_764 + 1913 * number:08d}"


def image_name(number: int, image: int) -> str:
    """The file name of an image, as ImageNet has them."""
    return f"{class_name(number)}_{image}.JPEG"


class Handler(BaseHTTPRequestHandler):
    """Answers GET /BUCKET?list-type=2&..."""

    protocol_version = "HTTP/1.1"
    classes = per_class = 0
    latency_s = 0.0

    def do_GET(self) -> None:
        """One page of keys or of common prefixes."""
        time.sleep(self.latency_s)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, first = query.get("prefix", ""), int(query.get("continuation-token", 0))
        if "delimiter" in query:
            folders = [class_name(i) for i in range(self.classes)] if prefix == PREFIX else []
            entries = [f"<CommonPrefixes><Prefix>{quote(prefix + f)}/</Prefix></CommonPrefixes>" for f in folders]
        else:
            entries = [
                f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f'<ETag>"d41d8cd98f00b204e9800998ecf8427e"</ETag><Size>{110_000 + number}</Size>'
                f"<StorageClass>STANDARD</StorageClass></Contents>"
                for number, key in self._keys(prefix, first)
            ]
        page = entries[first : first + PAGE] if "delimiter" in query else entries[:PAGE]
        more = len(entries) > first + PAGE if "delimiter" in query else len(entries) > PAGE
        token = f"<NextContinuationToken>{first + PAGE}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Prefix>{quote(prefix)}</Prefix><EncodingType>url</EncodingType><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{''.join(page)}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def _keys(self, prefix: str, first: int) -> list[tuple[int, str]]:
        """(number, key) of the keys from `first` on below PREFIX or one class: a page and one more."""
        name = prefix.removeprefix(PREFIX).rstrip("/")
        numbers = [i for i in range(self.classes) if class_name(i) == name] if name else range(self.classes)
        start, total = first, len(numbers) * self.per_class
        found = range(start, min(total, start + PAGE + 1))
        return [(i, f"{PREFIX}{class_name(n := numbers[i // self.per_class])}/{image_name(n, i % self.per_class)}")
                for i in found]  # fmt: skip


def main() -> None:
    """Serves until it is ended; prints the port once it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=1300)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    given = parser.parse_args()
    Handler.classes, Handler.per_class, Handler.latency_s = given.classes, given.per_class, given.latency_ms / 1000
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

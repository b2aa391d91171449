"""Reading from S3 by signed requests: odd names, ranges, long listings, and servers that fail on the way."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.s3_server import KEY, SECRET, serve_s3
from vgse.config import StorageConfig
from vgse.errors import StorageError
from vgse.storage import Storage, join

ODD_NAMES = ["a b.jpg", "a+b.jpg", "100%.jpg", "ü/ß é.jpg", "q?x=1&y#z.jpg", "~t'(1)!*.jpg", "n04033901/403.jpg"]


@pytest.fixture
def folder(aws):
    return Storage(), f"s3://vgse-test/requests-{uuid.uuid4().hex}"


@contextmanager
def server(answer) -> Iterator[tuple[str, Counter]]:
    """A server that answers request number n for a path with `answer(path, n)`: (status, headers, body). An answer may
    ask for a third argument, the request's Authorization."""
    seen: Counter = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            seen[self.path] += 1
            signed = [self.headers["Authorization"]] if answer.__code__.co_argcount == 3 else []
            status, headers, body = answer(self.path, seen[self.path], *signed)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            if "Connection" in headers:
                self.close_connection = True

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", seen
    finally:
        running.shutdown()
        running.server_close()


def to(endpoint, retries=2):
    return Storage(StorageConfig(endpoint_url=endpoint, key="some-key", secret=SECRET, retries=retries))


def error_page(code):
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'.encode()


def test_odd_names_are_listed_and_read_as_they_are(folder):
    storage, root = folder
    uris = [join(root, name) for name in ODD_NAMES]
    for uri in uris:
        storage.write_bytes(uri, uri.encode())
    assert [file.uri for file in storage.find(root)] == sorted(uris)
    assert storage.read_many(uris) == [uri.encode() for uri in uris]
    assert [storage.read_bytes(uri) for uri in uris] == [uri.encode() for uri in uris]
    with pytest.raises(StorageError, match="does not exist"):
        storage.read_bytes(join(root, "n04033901", "gone.jpg"))


def test_more_than_a_page_is_listed_whole(tmp_path):
    folder = tmp_path / "bucket" / "images"
    for part, count in (("one", 2300), ("two", 1000), ("three", 1)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            (folder / part / f"{number}.jpg").write_bytes(b"x" * (number % 3))
    (folder / "top.txt").write_bytes(b"top")
    with serve_s3(tmp_path) as served:
        storage = Storage(StorageConfig(endpoint_url=served.endpoint, key=KEY, secret=SECRET))
        found = list(storage.find("s3://bucket/images"))
    names = sorted(str(path.relative_to(tmp_path)) for path in folder.rglob("*") if path.is_file())
    assert [file.uri.removeprefix("s3://") for file in found] == names
    assert sum(file.size for file in found) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_ranges_and_ends_of_files(folder):
    storage, root = folder
    content = bytes(range(256)) * 1024
    for size in (0, 1, 10, 64 * 1024, len(content)):
        uri = join(root, str(size))
        storage.write_bytes(uri, content[:size])
        if size > 3:
            assert storage.read_range(uri, 3, 9) == content[: min(size, 9)][3:]
        with storage.open(uri) as source:
            assert source.seek(0, 2) == size
            assert source.read() == b""
            source.seek(max(0, size - 100_000))
            assert source.read(5) == content[:size][max(0, size - 100_000) :][:5]
            source.seek(0)
            assert source.read() == content[:size]


def test_a_busy_server_is_asked_again():
    def answer(path, number):
        return (503, {}, error_page("SlowDown")) if number < 3 else (200, {}, b"here")

    with server(answer) as (endpoint, seen):
        assert to(endpoint).read_bytes("s3://bucket/a.jpg") == b"here"
        assert seen["/bucket/a.jpg"] == 3
        with pytest.raises(StorageError, match="SlowDown"):
            to(endpoint, retries=1).read_bytes("s3://bucket/b.jpg")
        assert seen["/bucket/b.jpg"] == 2


def test_an_answer_that_breaks_off_is_asked_for_again():
    def answer(path, number):
        return (200, {"Content-Length": "8", "Connection": "close"}, b"half" if number == 1 else b"halfhalf")

    with server(answer) as (endpoint, seen):
        assert to(endpoint).read_many(["s3://bucket/a.jpg"]) == [b"halfhalf"]
        assert seen["/bucket/a.jpg"] == 2


def test_refusals_are_not_repeated_and_show_no_secret():
    with server(lambda path, number: (403, {}, error_page("AccessDenied"))) as (endpoint, seen):
        with pytest.raises(StorageError, match="access refused") as caught:
            to(endpoint).read_bytes("s3://bucket/a.jpg")
        (refused,) = to(endpoint).read_many(["s3://bucket/b.jpg"])
        assert seen == {"/bucket/a.jpg": 1, "/bucket/b.jpg": 1}
    assert isinstance(refused, PermissionError)
    for shown in (str(caught.value), repr(refused)):
        assert SECRET not in shown
        assert "some-key" not in shown


def test_a_server_without_ranges_and_one_that_is_gone():
    with server(lambda path, number: (200, {}, b"0123456789")) as (endpoint, _):
        assert to(endpoint).read_range("s3://bucket/a", 2, 5) == b"234"
        with to(endpoint).open("s3://bucket/a") as source:
            assert source.seek(-3, 2) == 7
            assert source.read() == b"789"
    with pytest.raises(StorageError, match="cannot be reached"):
        to(endpoint, retries=1).read_bytes("s3://bucket/a")


def test_the_region_of_a_bucket_is_learnt_once():
    def answer(path, number, signed):
        here = "/eu-west-3/s3/aws4_request" in signed
        return (
            (200, {}, b"here") if here else (301, {"x-amz-bucket-region": "eu-west-3"}, error_page("PermanentRedirect"))
        )

    with server(answer) as (endpoint, seen):
        storage = to(endpoint)
        assert [storage.read_bytes(f"s3://bucket/{name}") for name in "ab"] == [b"here"] * 2
        assert seen == {"/bucket/a": 2, "/bucket/b": 1}
        # Also where many requests find out at once.
        assert to(endpoint, retries=0).read_many([f"s3://other/{number}" for number in range(50)]) == [b"here"] * 50
    with server(lambda path, number: (301, {"x-amz-bucket-region": "eu-west-3"}, b"")) as (endpoint, seen):
        with pytest.raises(StorageError, match="HTTP 301"):
            to(endpoint).read_bytes("s3://bucket/a")
        assert seen == {"/bucket/a": 2}


def test_credentials_come_from_the_aws_files_too(s3, tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    # A setting of its own, since connections are shared by those of the same settings.
    storage = Storage(StorageConfig(endpoint_url=s3.endpoint, timeout_s=59))
    assert storage.read_bytes("s3://vgse-test/demo/classes.yaml").startswith(b"train")


def test_anonymous_requests_carry_no_signature():
    def answer(path, number, signed):
        return (403, {}, error_page("AccessDenied")) if signed else (200, {}, b"public")

    with server(answer) as (endpoint, _):
        storage = Storage(StorageConfig(endpoint_url=endpoint, anonymous=True, retries=0))
        assert storage.read_bytes("s3://bucket/a") == b"public"
        with pytest.raises(StorageError, match="access refused"):
            to(endpoint).read_bytes("s3://bucket/a")


def test_without_credentials_this_is_said(monkeypatch):
    with (
        server(lambda path, number: (200, {}, b"x")) as (endpoint, seen),
        pytest.raises(StorageError, match="no credentials"),
    ):
        Storage(StorageConfig(endpoint_url=endpoint)).read_bytes("s3://bucket/a")
    assert not seen

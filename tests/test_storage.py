"""Storage: every method on local files and on a real S3 server, whole-or-nothing writes, and silent credentials."""

from __future__ import annotations

import os
import pickle
import resource
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.s3_server import KEY, SECRET
from vgse.config import StorageConfig
from vgse.errors import StorageError
from vgse.storage import FileInfo, Storage, join, protocol


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """A `Storage` and an empty folder in it."""
    if request.param == "local":
        return Storage(), str(tmp_path / "folder")
    request.getfixturevalue("aws")
    return Storage(), f"s3://vgse-test/storage-{uuid.uuid4().hex}"


@contextmanager
def files_end_after(size):
    """Writing more than `size` bytes to a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_bytes_round_trip_and_overwrite(place):
    storage, root = place
    uri = join(root, "deep", "er", "a.bin")
    assert not storage.exists(uri)
    for content in (b"first", b"second, longer", b""):
        storage.write_bytes(uri, content)
        assert storage.read_bytes(uri) == content
    assert storage.exists(uri)
    assert storage.exists(join(root, "deep"))


def test_read_many_gives_an_exception_for_a_missing_one(place):
    storage, root = place
    uris = [join(root, name) for name in ("a", "missing", "b")]
    storage.write_bytes(uris[0], b"A")
    storage.write_bytes(uris[2], b"B")
    first, missing, last = storage.read_many(uris)
    assert (first, last) == (b"A", b"B")
    assert isinstance(missing, FileNotFoundError)
    assert storage.read_many([uris[0]]) == [b"A"]
    assert isinstance(storage.read_many([uris[1]])[0], FileNotFoundError)
    assert storage.read_many([]) == []


def test_listing(place):
    storage, root = place
    assert storage.list_names(root) == []
    for name in ("b/2.txt", "a/1.txt", "a/deep/3.txt", "top.txt"):
        storage.write_bytes(join(root, name), name.encode())
    assert storage.list_names(root) == ["a", "b", "top.txt"]
    assert storage.list_folders(root) == ["a", "b"]
    names = ["a/1.txt", "a/deep/3.txt", "b/2.txt", "top.txt"]
    assert list(storage.find(root)) == [FileInfo(join(root, name), len(name)) for name in names]
    assert list(storage.find(join(root, "top.txt"))) == [FileInfo(join(root, "top.txt"), 7)]


def test_nothing_there_is_said_with_the_location(place):
    storage, root = place
    missing = join(root, "nowhere")
    for ask in (
        storage.read_bytes,
        storage.list_folders,
        storage.open,
        storage.local_copy,
        storage.read_table,
        lambda uri: list(storage.find(uri)),
    ):
        with pytest.raises(StorageError, match="nowhere") as caught:
            ask(missing)
        assert caught.value.remedy


def test_open_is_seekable(place):
    storage, root = place
    storage.write_bytes(join(root, "a"), b"0123456789")
    with storage.open(join(root, "a")) as source:
        source.seek(-3, 2)
        assert source.read(2) == b"78"


def test_local_copy_follows_the_content(place):
    storage, root = place
    uri = join(root, "weights.bin")
    storage.write_bytes(uri, b"one")
    assert storage.local_copy(uri).read_bytes() == b"one"
    assert storage.local_copy(uri) == storage.local_copy(uri)
    storage.write_bytes(uri, b"two")
    assert storage.local_copy(uri).read_bytes() == b"two"
    assert storage.local_copy(uri).name.endswith("weights.bin")


def test_remove_tree(place):
    storage, root = place
    for name in ("a/1", "a/b/2", "c"):
        storage.write_bytes(join(root, name), b"x")
    storage.remove_tree(join(root, "a"))
    assert storage.list_names(root) == ["c"]
    storage.remove_tree(join(root, "c"))
    assert not storage.exists(join(root, "c"))
    storage.remove_tree(join(root, "never", "there"))


def test_tables_round_trip(place):
    storage, root = place
    table = pa.table({"name": ["a", "b"], "r": [[0.25, 0.75], [1.0, 0.0]], "image": [b"\x00", b"\xff"]})
    size = storage.write_table(join(root, "t.parquet"), table)
    assert size == len(storage.read_bytes(join(root, "t.parquet")))
    assert storage.read_table(join(root, "t.parquet")).equals(table)
    assert storage.read_table(join(root, "t.parquet"), ["r"]).column_names == ["r"]


@pytest.mark.parametrize("rows", [[0], [3, 4, 11], [9], []])
def test_single_rows_are_read_from_their_row_groups(place, rows):
    storage, root = place
    table = pa.table({"name": [f"row {i}" for i in range(12)], "image": [bytes([i]) * 100 for i in range(12)]})
    storage.write_table(join(root, "t.parquet"), table, compression="none", row_group_size=5)
    found = storage.read_rows(join(root, "t.parquet"), np.array(rows, np.int64), ["image"])
    assert found.column_names == ["image"]
    assert found["image"].to_pylist() == [bytes([i]) * 100 for i in rows]


def test_files_are_opened_from_many_threads_at_once(place):
    storage, root = place
    uris = [join(root, f"{number}.parquet") for number in range(12)]
    for number, uri in enumerate(uris):
        table = pa.table({"number": [number] * 9, "image": [b"x" * 1000] * 9})
        storage.write_table(uri, table, compression="none", row_group_size=2)

    def read(uri: str) -> list[int]:
        with storage.open(uri) as source:
            return pq.read_table(source, columns=["number"])["number"].to_pylist()

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(read, uris)) == [[number] * 9 for number in range(12)]


def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path):
    storage, uri = Storage(), str(tmp_path / "results" / "a.bin")
    storage.write_bytes(uri, b"old")
    with files_end_after(1 << 16), pytest.raises(StorageError, match=r"a\.bin") as caught:
        storage.write_bytes(uri, b"x" * (1 << 20))
    assert "free space" in caught.value.remedy
    assert storage.read_bytes(uri) == b"old"
    assert storage.list_names(str(tmp_path / "results")) == ["a.bin"]


@pytest.mark.parametrize("size", [0, 1000, 40 << 20], ids=["nothing", "little", "several parts"])
def test_what_is_written_piece_by_piece_appears_whole(place, size):
    storage, root = place
    uri, content = join(root, "deep", "a.bin"), os.urandom(size)
    with storage.writing(uri) as sink:
        for start in range(0, size, 1 << 20):
            sink.write(content[start : start + (1 << 20)])
        assert storage.list_names(join(root, "deep")) == []
    assert storage.read_bytes(uri) == content
    assert storage.list_names(join(root, "deep")) == ["a.bin"]


def test_what_breaks_off_while_it_is_written_never_appears(place, tmp_path, monkeypatch):
    storage, root = place
    monkeypatch.setattr("vgse.storage.storage.gettempdir", lambda: str(tmp_path))
    storage.write_bytes(join(root, "a.bin"), b"old")

    def write():
        with storage.writing(join(root, "a.bin")) as sink:
            sink.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert storage.read_bytes(join(root, "a.bin")) == b"old"
    assert storage.list_names(root) == ["a.bin"]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_writer_stumbles_over_elsewhere_is_not_said_of_what_it_writes(tmp_path):
    def write():
        with Storage().writing(str(tmp_path / "a.bin")):
            (tmp_path / "another").read_bytes()

    with pytest.raises(FileNotFoundError, match="another"):
        write()


@pytest.mark.parametrize(("limit", "size"), [(1 << 16, 1 << 20), (100, 1000)], ids=["large", "kept until the end"])
def test_a_full_disk_is_named_while_it_is_written(tmp_path, limit, size):
    def write():
        with Storage().writing(str(tmp_path / "results" / "a.bin")) as sink:
            sink.write(b"x" * size)

    with files_end_after(limit), pytest.raises(StorageError, match=r"a\.bin") as caught:
        write()
    assert "free space" in caught.value.remedy
    assert list((tmp_path / "results").iterdir()) == []


def test_a_folder_in_the_way_leaves_no_partial_file(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(StorageError, match=r"a\.bin"):
        Storage().write_bytes(str(tmp_path / "a.bin"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_refused_put_leaves_the_old_object(aws, monkeypatch):
    storage, uri = Storage(), f"s3://vgse-test/refused-{uuid.uuid4().hex}"
    storage.write_bytes(uri, b"old")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    with pytest.raises(StorageError, match="access refused"):
        Storage(StorageConfig(retries=0)).write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"


def test_credentials_travel_by_pickle_and_are_never_shown(aws, monkeypatch):
    storage, uri = Storage(), f"s3://vgse-test/pickled-{uuid.uuid4().hex}"
    for name in aws.environment:
        monkeypatch.delenv(name)
    travelled = pickle.loads(pickle.dumps(storage))
    travelled.write_bytes(uri, b"x")
    assert travelled.read_bytes(uri) == b"x"
    for shown in (repr(storage), str(travelled), repr(vars(travelled))):
        assert SECRET not in shown
        assert KEY not in shown
    assert aws.endpoint in repr(travelled)


def test_credentials_of_the_configuration_go_before_the_environment(aws, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something-else")
    storage = Storage(StorageConfig(key=KEY, secret=SECRET, endpoint_url=aws.endpoint))
    assert storage.exists("s3://vgse-test/demo/classes.yaml")


def test_memory_uris():
    storage, root = Storage(), f"memory://{uuid.uuid4().hex}"
    storage.write_bytes(join(root, "a", "b.txt"), b"x")
    assert storage.read_bytes(join(root, "a", "b.txt")) == b"x"
    assert storage.list_names(root) == ["a"]
    assert [file.uri for file in storage.find(root)] == [join(root, "a", "b.txt")]


def test_an_unknown_scheme_says_what_to_install():
    with pytest.raises(StorageError, match="nosuch://"):
        Storage().read_bytes("nosuch://bucket/a")


def test_uris():
    assert join("s3://bucket/a/", "/b", "c/") == "s3://bucket/a/b/c"
    assert (protocol("s3://bucket"), protocol("a/b")) == ("s3", "file")
    assert Storage().absolute("a/b") == str(Path.cwd() / "a/b")
    assert Storage().absolute("file:///a/b") == "/a/b"
    assert Storage().absolute("s3://bucket/a") == "s3://bucket/a"


def test_files_of_killed_writes_are_not_listed(tmp_path):
    storage = Storage()
    storage.write_bytes(str(tmp_path / "part-00000.parquet"), b"whole")
    (tmp_path / "part-00001.parquet.0123abcd.partial").write_bytes(b"hal")
    assert storage.list_names(str(tmp_path)) == ["part-00000.parquet"]

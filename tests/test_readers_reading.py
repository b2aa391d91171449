"""The bytes of a unit: what they are, in which order, how far ahead of their use, from every kind of store."""

from __future__ import annotations

import json
import threading
import time
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.s3_server import KEY, SECRET, serve_s3
from vgse.config import StorageConfig
from vgse.data.manifest import list_images
from vgse.data.readers import parquet, reading
from vgse.data.readers.reading import read_images
from vgse.errors import DataError, StorageError
from vgse.storage import Storage, join

FILES = 150


def content(number):
    return np.random.default_rng(number).bytes(500 + number)


def parquet_bytes(first, count, rows_per_group, **columns):
    numbers = range(first, first + count)
    table = pa.table(
        {"class_name": [f"c{n % 3}" for n in numbers], "image": [content(n) for n in numbers],
         "image_id": [f"{n}" for n in numbers], **columns}
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows_per_group, compression="none")
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module", params=["local", "s3", "memory"])
def place(request, tmp_path_factory):
    """(storage, location) of `tree/` with single files and `rows/` with two Parquet files."""
    folder = tmp_path_factory.mktemp("reading")
    storage, local = Storage(), str(folder / "bucket")
    root = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else local
    for number in range(FILES):
        storage.write_bytes(join(root, "tree", f"c{number % 3}", f"{number}.jpg"), content(number))
    storage.write_bytes(join(root, "rows", "a.parquet"), parquet_bytes(0, 70, 20))
    storage.write_bytes(join(root, "rows", "b.parquet"), parquet_bytes(70, 50, 7))
    if request.param != "s3":
        yield storage, root
        return
    with serve_s3(folder) as server:
        yield Storage(StorageConfig(endpoint_url=server.endpoint, key=KEY, secret=SECRET)), "s3://bucket"


def numbers_of(rows):
    return [int(row.image_id.rsplit("/", 1)[-1].removesuffix(".jpg")) for row, _ in rows]


@pytest.mark.parametrize("kind", ["tree", "rows"])
def test_every_row_comes_once_with_its_bytes(place, kind):
    storage, root = place
    frame = list_images(storage, join(root, kind))
    frame = frame.sample(frac=1.0, random_state=3)
    rows = list(read_images(storage, frame))
    assert sorted(numbers_of(rows)) == list(range(len(frame)))
    assert [bytes_ for _, bytes_ in rows] == [content(number) for number in numbers_of(rows)]
    if kind == "tree":
        assert [row.image_id for row, _ in rows] == frame.image_id.tolist()
        assert frame["size"].tolist() == [500 + number for number in numbers_of(rows)]
    else:
        assert numbers_of(rows) != sorted(numbers_of(rows))


def test_only_the_rows_that_are_asked_for(place):
    storage, root = place
    frame = list_images(storage, join(root, "rows"))
    some = frame[frame.class_name == "c1"]
    assert sorted(numbers_of(read_images(storage, some))) == sorted(int(name) for name in some.image_id)


def test_a_file_that_has_gone_is_its_exception(place):
    storage, root = place
    frame = list_images(storage, join(root, "tree")).head(5)
    gone = frame.assign(uri=[*frame.uri[:4], join(root, "tree", "gone.jpg")])
    found = [data for _, data in read_images(storage, gone)]
    assert [isinstance(data, bytes) for data in found] == [True] * 4 + [False]
    assert isinstance(found[4], FileNotFoundError)


def test_a_parquet_file_that_has_gone_is_said(place):
    storage, root = place
    frame = list_images(storage, join(root, "rows")).assign(uri=join(root, "rows", "gone.parquet"))
    with pytest.raises(StorageError, match=r"gone\.parquet does not exist"):
        list(read_images(storage, frame))


def test_a_large_row_group_is_read_piece_by_piece(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(0, 300, 300))
    frame = list_images(Storage(), str(tmp_path))
    monkeypatch.setattr(parquet, "_SMALL", 1000)
    batches = list(parquet.read_parquet_rows(Storage(), str(tmp_path / "a.parquet"), frame))
    assert max(map(len, batches)) == parquet._ROWS_AT_ONCE
    assert [data for batch in batches for _, data in batch] == [content(number) for number in range(300)]


def test_files_are_read_ahead_but_not_without_end(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / "tree" / "c").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / "c" / f"{number:02d}.jpg").write_bytes(b"x" * 100)
    monkeypatch.setattr(reading, "_BYTES_AT_ONCE", 400)
    asked = []
    read = Storage.read_many
    monkeypatch.setattr(Storage, "read_many", lambda self, uris: asked.append(len(uris)) or read(self, uris))
    rows = read_images(Storage(), list_images(Storage(), str(tmp_path / "tree")))
    next(rows)
    for _ in range(100):
        if len(asked) == 1 + reading._BATCHES_AHEAD:
            break
        time.sleep(0.02)
    time.sleep(0.1)
    assert asked == [4] * (1 + reading._BATCHES_AHEAD)
    rows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def hugging_face(path, names=None, labels=None):
    images = [{"bytes": content(n), "path": None} for n in range(6)]
    table = pa.table({"image": images, "label": labels or [n % 3 for n in range(6)]})
    if names:
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=4)


def test_parquet_of_hugging_face(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    hugging_face(path, ["ant", "bee", "cow"])
    frame = list_images(Storage(), str(path))
    assert frame.class_name.tolist() == ["ant", "bee", "cow"] * 2
    assert frame.image_id.tolist() == [f"{path.name}#{number}" for number in range(6)]
    assert [data for _, data in read_images(Storage(), frame)] == [content(number) for number in range(6)]
    hugging_face(path)
    assert list_images(Storage(), str(path)).class_name.tolist() == ["0", "1", "2"] * 2
    (page,) = parquet.list_parquet(Storage(), str(path), ("x", "y", "z"))
    assert page["class_name"].to_pylist() == ["x", "y", "z"] * 2
    with pytest.raises(DataError, match="label 2 has no name among 2"):
        list(parquet.list_parquet(Storage(), str(path), ("x", "y")))


def test_images_that_are_no_bytes_are_said(tmp_path):
    pq.write_table(pa.table({"image": ["a.jpg"], "class_name": ["ant"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column image holds string"):
        list_images(Storage(), str(tmp_path))


def test_classes_or_ids_that_are_missing_are_said(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet_bytes(0, 2, 2, class_name=["ant", None]))
    with pytest.raises(DataError, match="rows without class_name"):
        list_images(Storage(), str(tmp_path))


def test_linked_folders_are_followed_but_not_round_in_circles(tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "1.jpg").write_bytes(b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "ant").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "tree")
    assert list_images(Storage(), str(tmp_path / "tree")).image_id.tolist() == ["ant/deep/1.jpg"]


def test_a_name_that_is_not_utf8_is_said(tmp_path):
    (tmp_path / "tree" / "ant").mkdir(parents=True)
    open(bytes(tmp_path / "tree" / "ant") + b"/caf\xe9.jpg", "wb").close()
    with pytest.raises(DataError, match="is not UTF-8"):
        list_images(Storage(), str(tmp_path / "tree"))

"""WebDataset tars: listing by headers, classes from members or folders, byte ranges, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
import uuid

import numpy as np
import pytest

from benchmarks.s3_server import KEY, SECRET, serve_s3
from vgse.config import DataConfig, StorageConfig
from vgse.data.manifest import build_manifest, list_images
from vgse.data.readers import read_images
from vgse.data.readers.webdataset import list_tar
from vgse.data.splits import ClassSplit
from vgse.data.units import cut_units
from vgse.errors import DataError
from vgse.storage import Storage, join

SPLIT = ClassSplit(("ant", "bee"), ("cow",), ("dog",))
NAMES = (*SPLIT.all, "other")


def image(number, size=3000):
    return np.random.default_rng(number).bytes(size + 37 * number)


def tar_bytes(members, form=tarfile.PAX_FORMAT):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def samples(first, count, how):
    """Members of `count` samples, whose class is told by `how`."""
    for number in range(first, first + count):
        name = NAMES[number % len(NAMES)]
        key = f"{name}/{number:05d}" if how == "folder" else f"{number:05d}"
        yield f"{key}.JPG", image(number)
        if how == "cls":
            yield f"{key}.cls", f"{number % len(NAMES)}\n".encode()
        if how == "txt":
            yield f"{key}.txt", name.encode()
        if how == "json":
            yield f"{key}.json", json.dumps({"label": name, "width": 3}).encode()


def config(*uris, **more):
    return DataConfig(images=uris, classes="c", word_vectors="w", **more)


@pytest.fixture(scope="module", params=["local", "s3", "memory"])
def shards(request, tmp_path_factory):
    """(storage, location, class names file) of four tars that tell their classes in four ways."""
    folder = tmp_path_factory.mktemp("tars")
    contents = {
        f"{how}.tar": tar_bytes(samples(100 * i, 40, how)) for i, how in enumerate(("cls", "txt", "json", "folder"))
    }
    contents["README.md"] = b"beside the tars"
    storage, root = Storage(), str(folder / "bucket" / "shards")
    for name, content in contents.items():
        storage.write_bytes(join(root, name), content)
    storage.write_bytes(str(folder / "bucket" / "names.txt"), "\n".join(NAMES).encode())
    if request.param == "local":
        yield storage, root, str(folder / "bucket" / "names.txt")
    elif request.param == "s3":
        with serve_s3(folder) as server:
            storage = Storage(StorageConfig(endpoint_url=server.endpoint, key=KEY, secret=SECRET))
            yield storage, "s3://bucket/shards", "s3://bucket/names.txt"
    else:
        place = f"memory://{uuid.uuid4().hex}"
        for name, content in contents.items():
            storage.write_bytes(join(place, name), content)
        yield storage, place, str(folder / "bucket" / "names.txt")


def test_every_way_to_tell_a_class(shards):
    storage, root, names = shards
    frame = build_manifest(storage, config(root, class_names=names), [SPLIT])
    assert (frame.class_name.value_counts() == 32).all()
    assert len(frame) == 128
    number = frame.image_id.str.extract(r"(\d{5})\.JPG$")[0].astype(int)
    assert [NAMES[n % len(NAMES)] for n in number] == frame.class_name.tolist()
    assert f"{root.rsplit('/', 1)[-1]}/folder.tar/ant/00300.JPG" in set(frame.image_id)


def test_images_come_from_their_byte_ranges(shards):
    storage, root, names = shards
    frame = build_manifest(storage, config(root, class_names=names, format="webdataset"), [SPLIT])
    seen = []
    for rows in cut_units(frame, 50, fewest=3):
        for row, content in read_images(storage, frame.iloc[rows]):
            number = int(row.image_id[-9:-4])
            assert content == image(number)
            seen.append(row.image_id)
    assert sorted(seen) == frame.image_id.tolist()


def test_neighbours_are_one_request(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(samples(0, 100, "folder")))
    storage, asked = Storage(), []
    read = Storage.read_range
    monkeypatch.setattr(Storage, "read_range", lambda *a: asked.append(a[2:]) or read(*a))
    frame = list_images(storage, str(path))
    assert len(list(read_images(storage, frame))) == 100
    assert len(asked) == 1


def test_numbers_without_names_are_the_names(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 10, "cls")))
    assert set(list_images(Storage(), str(tmp_path)).class_name) == set("01234")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_large_members_long_names_and_more_dots(tmp_path, form):
    folder = "a-long-folder-name" * (4 if form == tarfile.USTAR_FORMAT else 12)
    members = [(f"./{folder}/{i}.left.png", image(i, 700_000)) for i in range(5)]
    members += [("README", b"x"), (f"{folder}/.hidden.png", b"x"), ("x/9.seg.npy", b"x")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members, form))
    frame = list_images(Storage(), str(tmp_path))
    assert frame.class_name.unique().tolist() == [folder]
    assert [content for _, content in read_images(Storage(), frame)] == [image(i, 700_000) for i in range(5)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tar_bytes([("a/1.jpg", b"x"), ("a/1.png", b"y")]), "the sample a/1 holds two images: a/1.jpg and a/1.png"),
        (tar_bytes([("1.jpg", b"x")]), "the sample 1 has no class"),
        (tar_bytes([("1.jpg", b"x"), ("1.json", b'{"caption": "a cat"}')]), "the sample 1 has no class"),
        (tar_bytes([("1.jpg", b"x"), ("1.json", b"{")]), r"1\.json is not valid JSON"),
        (tar_bytes([("1.jpg", b"x"), ("1.cls", b"7")]), "class number 7, but data.class_names holds 5 names"),
        (tar_bytes([("a/1.jpg", image(0))])[:2000], "cannot be read as a tar"),
        (tar_bytes([("a/1.jpg", b"x" * 512), ("a/2.jpg", b"y" * 512)])[:1200], "is cut off or broken at byte 1024"),
        (tar_bytes([("a/1.jpg", b"x" * 512)])[:1024] + b"q" * 2048, "is cut off or broken at byte 1024"),
        (b"", "cannot be read as a tar"),
        (b"\x1f\x8b" + b"z" * 2000, "cannot be read as a tar"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, content, says):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        list(list_tar(Storage(), str(tmp_path / "a.tar"), NAMES))
    assert "a.tar" in str(caught.value)
    assert caught.value.remedy


def test_a_tar_that_became_shorter(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(samples(0, 10, "folder")))
    frame = list_images(Storage(), str(path))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match="has become shorter"):
        list(read_images(Storage(), frame))


def test_a_tar_beside_images_is_no_webdataset(tmp_path):
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "images" / "ant" / "1.jpg").write_bytes(b"x")
    (tmp_path / "images" / "backup.tar").write_bytes(tar_bytes(samples(0, 5, "folder")))
    assert list_images(Storage(), str(tmp_path / "images")).image_id.tolist() == ["ant/1.jpg"]
    assert len(list_images(Storage(), str(tmp_path / "images"), "webdataset")) == 5


def test_no_tar_there(tmp_path):
    with pytest.raises(DataError, match=r"no \.tar file"):
        list_images(Storage(), str(tmp_path), "webdataset")


def test_class_names_file_with_gaps(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples(0, 10, "cls")))
    (tmp_path / "names.txt").write_text("ant\n\nbee\n")
    with pytest.raises(DataError, match="has empty lines"):
        build_manifest(Storage(), config(str(tmp_path), class_names=str(tmp_path / "names.txt")), [SPLIT])

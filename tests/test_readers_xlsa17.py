"""The published benchmarks' layout: classes, roles and files from the .mat files, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from benchmarks.s3_server import KEY, SECRET, serve_s3
from tests.made_benchmark import NAMES, PER_CLASS, MadeBenchmark, cells
from vgse.config import DataConfig, StorageConfig
from vgse.config_loading import parse_config
from vgse.config_warnings import config_warnings
from vgse.data.manifest import build_manifest
from vgse.data.readers import read_images
from vgse.data.readers.xlsa17 import read_benchmark_files
from vgse.errors import DataError
from vgse.storage import Storage

# As the published files have them: a path of somebody's machine, with a doubled slash.
PUBLISHED = "/BS/xian/work/data/Animals//JPEGImages/{}/{}.jpg"


def file_of(number):
    return f"{NAMES[number // PER_CLASS]}/{number % PER_CLASS}.jpg"


def published(number):
    return PUBLISHED.format(NAMES[number // PER_CLASS], number % PER_CLASS)


def make(folder):
    """Both files and the images; the names of images recur in every class."""
    made = MadeBenchmark()
    count = len(made.features["labels"])
    made.features["image_files"] = cells([published(number) for number in range(count)])
    for number in range(count):
        path = folder / "JPEGImages" / file_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())
    return made


def config(root, classes, **more):
    return DataConfig(images=[str(root)], classes=str(classes), word_vectors="w", **more)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    made = make(folder)
    made.write(folder)
    return folder, made


def numbers(made, *parts):
    return sorted(int(n) - 1 for part in parts for n in made.splits[f"{part}_loc"].ravel())


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.parametrize("root", ["", "/JPEGImages"])
def test_classes_roles_and_files(benchmark, place, root):
    folder, made = benchmark
    if place == "local":
        check(Storage(), str(folder), root, made)
        return
    with serve_s3(folder.parent) as server:
        check(Storage(StorageConfig(endpoint_url=server.endpoint, key=KEY, secret=SECRET)),
              f"s3://{folder.name}", root, made)  # fmt: skip


def check(storage, folder, root, made):
    data = config(f"{folder}{root}", f"{folder}/att_splits.mat")
    split = read_benchmark_files(storage, data).split
    classes_of = {
        part: {NAMES[n // PER_CLASS] for n in numbers(made, part)} for part in ("train", "val", "test_unseen")
    }
    assert (set(split.train), set(split.val), set(split.unseen)) == tuple(classes_of.values())
    frame = build_manifest(storage, data, [split])
    for role, parts in (("train", ["trainval"]), ("test", ["test_seen", "test_unseen"])):
        mine = frame[frame.role == role]
        contents = {row.uri: int(content) for row, content in read_images(storage, mine)}
        assert sorted(contents.values()) == numbers(made, *parts)
        assert [NAMES[contents[uri] // PER_CLASS] for uri in mine.uri] == mine.class_name.tolist()
        ranks = mine.groupby("class_name")["rank"].apply(sorted)
        assert all(ranks == ranks.map(lambda found: list(range(len(found)))))


def test_as_many_per_class_as_asked(benchmark):
    folder, _ = benchmark
    data = config(folder, folder / "att_splits.mat", images_per_class=3)
    frame = build_manifest(Storage(), data, [read_benchmark_files(Storage(), data).split])
    assert set(frame.groupby(["class_name", "role"]).size()) == {3}


@pytest.mark.parametrize("name", ["AWA2", "SUN"])
def test_published_splits(shared, tmp_path, name):
    """Real splits with made labels: those that the split's own parts allow."""
    splits = shared / "data" / "xlsa17" / name / "att_splits.mat"
    content = loadmat(splits)
    parts = {part: content[f"{part}_loc"].ravel() - 1 for part in ("train", "val", "test_unseen")}
    count = sum(len(rows) for rows in parts.values())
    sizes = {"AWA2": (27, 13, 10), "SUN": (580, 65, 72)}[name]
    labels, first = np.zeros(count, np.int64), 1
    for rows, size in zip(parts.values(), sizes, strict=True):
        labels[rows], first = first + np.arange(len(rows)) % size, first + size
    savemat(
        tmp_path / "res101.mat", {"labels": labels[:, None], "image_files": cells([f"{n}.jpg" for n in range(count)])}
    )
    found = read_benchmark_files(Storage(), config("x", splits, image_files=str(tmp_path / "res101.mat")))
    assert tuple(map(len, (found.split.train, found.split.val, found.split.unseen))) == sizes
    assert len(found.rows["train"]) == len(content["trainval_loc"])
    assert len(found.rows["test"]) == len(content["test_seen_loc"]) + len(content["test_unseen_loc"])


def spoil(key, value, which="features"):
    def change(made, folder):
        getattr(made, which)[key] = value(made) if callable(value) else value

    return change


def drop(key, which="features"):
    return lambda made, folder: getattr(made, which).pop(key)


def remove(made, folder):
    (folder / "JPEGImages" / file_of(numbers(made, "trainval")[0])).unlink()


def copy(made, folder):
    shutil.copytree(folder / "JPEGImages" / NAMES[0], folder / "backup" / "JPEGImages" / NAMES[0])


def same_file_twice(made, folder):
    files = [published(n) for n in range(len(made.features["labels"]))]
    first, second = numbers(made, "trainval")[:2]
    files[second] = files[first]
    made.features["image_files"] = cells(files)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("image_files"), "the key image_files is missing"),
        (drop("labels"), "the key labels is missing"),
        (drop("allclasses_names", "splits"), "the key allclasses_names is missing"),
        (drop("train_loc", "splits"), "the key train_loc is missing"),
        (spoil("image_files", cells(["a.jpg"])), "1 image_files, but 600 labels"),
        (spoil("image_files", np.ones((600, 1))), "image_files holds no paths"),
        (spoil("labels", lambda made: made.features["labels"] + 1), "labels do not fit"),
        (spoil("val_loc", lambda made: made.splits["train_loc"], "splits"), "in more than one of train_loc, val_loc"),
        (spoil("trainval_loc", np.array([[601]]), "splits"), "trainval_loc holds image number 601"),
        (remove, "1 of 600 image_files are not below .*: /BS/xian"),
        (copy, "which fits .* and .* alike"),
        (same_file_twice, "but both fit only"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, change, says):
    made = make(tmp_path)
    change(made, tmp_path)
    made.write(tmp_path)
    data = config(tmp_path, tmp_path / "att_splits.mat")
    with pytest.raises(DataError, match=says) as caught:
        build_manifest(Storage(), data, [read_benchmark_files(Storage(), data).split])
    assert caught.value.remedy


@pytest.mark.parametrize("more", [{"test_images": "t"}, {"class_splits": 2}, {"format": "xlsa17", "test_images": "t"}])
def test_settings_that_contradict_a_benchmark(more):
    with pytest.raises(ValueError, match=r"att_splits\.mat says itself"):
        config("x", "att_splits.mat", **more)


def test_settings_without_effect_are_said():
    values = {"run": "r", "data": {"images": "i", "classes": "att_splits.mat", "word_vectors": "w"}}
    said = {"held_out_fraction": 0.3, "class_names": "names.txt"}
    config = parse_config({**values, "data": {**values["data"], **said}}, "test.yaml")
    warnings = " ".join(config_warnings(config))
    assert all(f"data.{name} is ignored" in warnings for name in said)
    values["data"] |= {"classes": "classes.yaml", "image_files": "res101.mat"}
    assert any("data.image_files is ignored" in text for text in config_warnings(parse_config(values, "test.yaml")))


def test_xlsa17_needs_its_splits():
    with pytest.raises(ValueError, match=r"takes the classes from an att_splits\.mat"):
        config("x", "classes.yaml", format="xlsa17")

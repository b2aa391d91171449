"""The layout of the published benchmarks ("xlsa17", Xian et al. 2017): `att_splits.mat` says which classes there are
and which images serve for what, `res101.mat` which image file each number means, by its path on its authors' machine.

Images are numbered by `image_files`; `trainval_loc` trains, `test_seen_loc` and `test_unseen_loc` test. A path is
looked for below the images' root by the longest end it shares with a file there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import pyarrow as pa

from vgse.config import DataConfig
from vgse.data.readers.pages import page
from vgse.data.splits import ClassSplit
from vgse.errors import DataError
from vgse.storage import FileInfo, Storage
from vgse.zsl.xlsa17_reader import check_sides, class_names_of, locations, read_mat, required, texts_of, whole_numbers

_PARTS = ("trainval", "train", "val", "test_seen", "test_unseen")
_ROLES = {"train": ("trainval",), "test": ("test_seen", "test_unseen")}
_NAMED = 5


@dataclass(frozen=True)
class Benchmark:
    """What both files say.

    Attributes:
        split: `train` and `val` as in train_loc and val_loc, `unseen` as in test_unseen_loc.
        class_of: (N,) class names.
        paths: N paths as published.
        rows: image numbers by role (`train`, `test`).
        uri: the file with the paths.
    """

    split: ClassSplit
    class_of: np.ndarray
    paths: tuple[str, ...]
    rows: Mapping[str, np.ndarray]
    uri: str


def image_files_uri(data: DataConfig) -> str:
    """Where `image_files` and `labels` are: res101.mat beside the splits unless said otherwise."""
    return data.image_files or f"{data.classes.rpartition('/')[0] or '.'}/res101.mat"


def read_benchmark_files(storage: Storage, data: DataConfig) -> Benchmark:
    """Reads `data.classes` (att_splits.mat) and `data.image_files` (else res101.mat beside it; no feature is read).

    Raises:
        DataError: a file is no MATLAB 5 file, lacks a key, or the two do not fit; the file and the key are named.
        StorageError: a file is not there.
    """
    splits = data.classes
    images = image_files_uri(data)
    content = read_mat(storage, splits, ["allclasses_names", *(f"{part}_loc" for part in _PARTS)])
    names = class_names_of(content, splits)
    listed = read_mat(storage, images, ["labels", "image_files"])
    labels = whole_numbers(required(listed, "labels", images), "labels", images) - 1
    # Backslashes are those of a Windows machine.
    paths = tuple(path.replace("\\", "/") for path in texts_of(listed, "image_files", images, "paths"))
    if len(paths) != len(labels):
        raise DataError(f"{images}: {len(paths)} image_files, but {len(labels)} labels", "give one label per image")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"{images}: labels do not fit the {len(names)} classes of {splits}, which are counted from 1",
            "give the two files of the same benchmark",
        )
    rows = {part: locations(content, f"{part}_loc", splits, len(labels)) for part in _PARTS}
    check_sides(rows, labels, names, splits)
    parts = {part: tuple(names[c] for c in np.unique(labels[rows[part]])) for part in ("train", "val", "test_unseen")}
    both = sorted(set(parts["train"]) & set(parts["val"]) | set(parts["val"]) & set(parts["test_unseen"]))
    if both:
        raise DataError(
            f"{splits}: classes in more than one of train_loc, val_loc and test_unseen_loc: {', '.join(both[:_NAMED])}",
            "mend the split: choices are made on val classes that training has not seen",
        )
    by_role = {role: np.concatenate([rows[part] for part in members]) for role, members in _ROLES.items()}
    split = ClassSplit(parts["train"], parts["val"], parts["test_unseen"])
    return Benchmark(split, np.asarray(names, object)[labels], paths, by_role, images)


def list_benchmark(storage: Storage, uri: str, found: Benchmark) -> Iterator[tuple[str, pa.Table]]:
    """(role, page) of the benchmark's images at a location.

    Raises:
        DataError: image_files that are not below `uri`, or that fit two files there, or two that fit the same.
    """
    root = storage.absolute(uri)
    places = _places(storage, root, found)
    start = len(root.rstrip("/")) + 1
    for role, rows in found.rows.items():
        files = [places[row] for row in rows]
        ids, uris = [file.uri[start:] for file in files], [file.uri for file in files]
        yield role, page(ids, found.class_of[rows], uris, size=[file.size for file in files])


def _places(storage: Storage, root: str, found: Benchmark) -> dict[int, FileInfo]:
    """The file of every image number that serves for something."""
    used = np.concatenate(list(found.rows.values()))
    wanted = {_base(found.paths[row]) for row in used}
    by_name: dict[str, list[FileInfo]] = defaultdict(list)
    for files in storage.find_pages(root):
        for file in files:
            if _base(file.uri) in wanted:
                by_name[_base(file.uri)].append(file)
    nearest = {row: _nearest(found.paths[row], by_name.get(_base(found.paths[row]), [])) for row in used.tolist()}
    # All paths start with the same folders of their authors' machine. One that fits a file by less than the others do
    # has lost its own.
    start = Counter(at for _, at in nearest.values()).most_common(1)[0][0]
    places: dict[int, FileInfo] = {}
    missing: list[str] = []
    taken: dict[str, str] = {}
    for row, (files, at) in nearest.items():
        path = found.paths[row]
        if not files or (at > start and (len(files) > 1 or files[0].uri in taken)):
            missing.append(path)
            continue
        if len(files) > 1:
            raise DataError(
                f"{found.uri}: image_files names {path}, which fits {files[0].uri} and {files[1].uri} alike",
                "give data.images the folder that the published paths start from, without copies beside it",
            )
        if files[0].uri in taken:
            raise DataError(
                f"{found.uri}: image_files names {taken[files[0].uri]} and {path}, but both fit only {files[0].uri}",
                "add the missing image, or give data.images the folder that the published paths start from",
            )
        taken[files[0].uri] = path
        places[row] = files[0]
    if missing:
        raise DataError(
            f"{found.uri}: {len(missing)} of {len(used)} image_files are not below {root}: "
            f"{', '.join(missing[:_NAMED])}",
            "check data.images; paths are compared from their end, and file names must be those published",
        )
    return places


def _nearest(path: str, files: Sequence[FileInfo]) -> tuple[list[FileInfo], int]:
    """The files that share the longest end with `path`, counted in folders, and the number of folders before it."""
    parts = _folders(path)
    shared = [_shared_end(parts, _folders(file.uri)) for file in files]
    longest = max(shared, default=0)
    return [file for file, length in zip(files, shared, strict=True) if length == longest], len(parts) - longest


def _shared_end(first: Sequence[str], second: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first[::-1], second[::-1], strict=False)))


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _folders(path: str) -> list[str]:
    return [part for part in path.split("/") if part]

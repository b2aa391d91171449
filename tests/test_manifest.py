"""The manifest: listing, ids, held-out images, refusals, and the units of work."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vgse.config import DataConfig
from vgse.data.manifest import build_manifest, manifest_digest, manifest_from, manifest_table
from vgse.data.splits import ClassSplit
from vgse.data.units import cut_units
from vgse.errors import DataError, StorageError
from vgse.storage import Storage

SPLIT = ClassSplit(("ant", "bee"), ("cow",), ("dog",))


def tree(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.jpg").write_bytes(b"x")
    return root


def config(*images, **more):
    return DataConfig(images=[str(i) for i in images], classes="c", word_vectors="w", **more)


FULL = {"ant": 10, "bee": 10, "cow": 10, "dog": 10}


def test_folder_tree(tmp_path):
    frame = build_manifest(Storage(), config(tree(tmp_path / "images", {**FULL, "other": 3})), [SPLIT])
    assert len(frame) == 40
    assert frame.image_id[0] == "images/ant/0.jpg"
    assert frame.image_id.is_unique
    assert (frame.groupby("class_name").role.agg(lambda r: (r == "test").sum()) == 2).all()
    for _, group in frame.groupby(["class_name", "role"]):
        assert sorted(group["rank"]) == list(range(len(group)))


def test_separate_test_images_keep_all_training_images(tmp_path):
    data = config(tree(tmp_path / "train", FULL), test_images=str(tree(tmp_path / "test", FULL)))
    frame = build_manifest(Storage(), data, [SPLIT])
    assert (frame.role.value_counts() == 40).all()


def test_images_per_class_nests(tmp_path):
    root = tree(tmp_path / "images", FULL)
    few, more = (
        build_manifest(Storage(), config(root, images_per_class=n, held_out_fraction=0.5), [SPLIT]) for n in (4, 8)
    )
    assert (few.groupby("class_name").size() == 4).all()
    assert set(few.image_id) <= set(more.image_id)


def test_parquet_rows(tmp_path):
    names = [name for name in FULL for _ in range(10)]
    table = pa.table({"class_name": names, "image": [b"x"] * 40, "path": [f"{n}/{i}" for i, n in enumerate(names)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=15)
    frame = build_manifest(Storage(), config(tmp_path / "a.parquet"), [SPLIT])
    assert len(frame) == 40
    assert sorted(frame["row"]) == list(range(40))
    assert set(frame.row_group) == {0, 1, 2}
    assert "a/ant/0" in set(frame.image_id)


def test_empty_class_folder(tmp_path):
    root = tree(tmp_path / "images", FULL)
    (root / "eel").mkdir()
    with pytest.raises(DataError, match="hold no image: eel"):
        build_manifest(Storage(), config(root), [SPLIT])


def test_missing_location(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        build_manifest(Storage(), config(tmp_path / "nowhere"), [SPLIT])


def test_parquet_without_images(tmp_path):
    pq.write_table(pa.table({"class_name": ["ant"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="`image` and `class_name`"):
        build_manifest(Storage(), config(tmp_path), [SPLIT])


def test_the_same_location_twice_gives_distinct_ids_or_an_error(tmp_path):
    root = tree(tmp_path / "images", FULL)
    frame = build_manifest(Storage(), config(root, test_images=str(root)), [SPLIT])
    assert frame.image_id.is_unique


def test_one_image_cannot_be_held_out(tmp_path):
    with pytest.raises(DataError, match="single image"):
        build_manifest(Storage(), config(tree(tmp_path / "images", {**FULL, "dog": 1})), [SPLIT])


def test_digest_sees_images_not_places(tmp_path):
    first = build_manifest(Storage(), config(tree(tmp_path / "a" / "images", FULL)), [SPLIT])
    moved = build_manifest(Storage(), config(tree(tmp_path / "b" / "images", FULL)), [SPLIT])
    more = build_manifest(Storage(), config(tree(tmp_path / "c" / "images", {**FULL, "dog": 11})), [SPLIT])
    assert manifest_digest(first) == manifest_digest(moved) != manifest_digest(more)


def test_a_manifest_of_earlier_versions_is_read(tmp_path):
    frame = build_manifest(Storage(), config(tree(tmp_path / "images", FULL)), [SPLIT])
    pd.testing.assert_frame_equal(manifest_from(manifest_table(frame)), frame)
    earlier = manifest_table(frame).drop_columns(["offset", "size"])
    pd.testing.assert_frame_equal(manifest_from(earlier), frame.assign(offset=-1, size=-1))


@pytest.mark.parametrize(
    ("images", "rows", "sizes"),
    [(40, 1, {1}), (40, 1000, {2, 3}), (4096, 1000, {128}), (50_000, 300, {299, 300}), (400_001, 1000, {997, 998})],
)
def test_units_are_of_even_size_and_partition_the_manifest(images, rows, sizes):
    frame = pd.DataFrame({"uri": [f"u{i}" for i in range(images)], "row": -1, "row_group": -1})
    units = cut_units(frame, rows)
    order = np.concatenate(units)
    assert {len(unit) for unit in units} == sizes
    np.testing.assert_array_equal(np.sort(order), np.arange(images))
    # Shuffled globally: neighbours in the listing are no neighbours in the shards.
    assert np.abs(np.diff(order)).mean() > images / 5
    np.testing.assert_array_equal(np.concatenate(cut_units(frame, rows)), order)


def test_units_read_a_row_group_once(tmp_path):
    names = [name for name in FULL for _ in range(10)]
    pq.write_table(pa.table({"class_name": names, "image": [b"x"] * 40}), tmp_path / "a.parquet", row_group_size=8)
    frame = build_manifest(Storage(), config(tmp_path), [SPLIT])
    units = [frame.iloc[rows] for rows in cut_units(frame, 10)]
    groups = [set(unit.row_group) for unit in units]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5
    assert sum(map(len, units)) == 40
    np.testing.assert_array_equal(sorted(np.concatenate([unit["row"] for unit in units])), np.arange(40))

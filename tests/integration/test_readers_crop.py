"""The same images in every layout, cropped on real Ray, give the same patches."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from benchmarks.s3_server import KEY, SECRET, serve_s3
from tests.made_benchmark import cells
from vgse.cli import run
from vgse.config_loading import parse_config
from vgse.data.demo_images import demo_classes

PER_CLASS = 4


@pytest.fixture(scope="module")
def places(tmp_path_factory, demo_data):
    """A server whose bucket holds a few of the demo's images as folder tree, tars, Parquet and benchmark."""
    folder = tmp_path_factory.mktemp("layouts")
    bucket = folder / "bucket"
    files = []
    for name in (name for part in demo_classes().values() for name in part):
        for path in sorted((demo_data.images / name).iterdir())[:PER_CLASS]:
            target = bucket / "tree" / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            files.append(shutil.copy(path, target))
    (bucket / "tars").mkdir()
    for part in range(3):
        with tarfile.open(bucket / "tars" / f"{part}.tar", "w") as archive:
            for path in files[part::3]:
                archive.add(path, f"{path.parent.name}/{path.name}")
    (bucket / "rows").mkdir()
    table = pa.table({"class_name": [p.parent.name for p in files], "image": [p.read_bytes() for p in files]})
    pq.write_table(table, bucket / "rows" / "all.parquet", row_group_size=10)
    benchmark(bucket, files)
    with serve_s3(folder) as server:
        yield server


def benchmark(bucket, files):
    """att_splits.mat and res101.mat: one image in four of the seen classes is held out."""
    classes = demo_classes()
    names = [*classes["unseen"], *classes["val"], *classes["train"]]
    part = np.array([next(p for p in classes if path.parent.name in classes[p]) for path in files])
    held, seen = np.arange(len(files)) % PER_CLASS == 0, part != "unseen"
    rows = {"train": part == "train", "val": part == "val", "trainval": seen & ~held, "test_seen": seen & held,
            "test_unseen": ~seen}  # fmt: skip
    locations = {f"{name}_loc": np.flatnonzero(mask)[:, None] + 1 for name, mask in rows.items()}
    savemat(bucket / "att_splits.mat", {"allclasses_names": cells(names), **locations})
    savemat(
        bucket / "res101.mat",
        {
            "labels": np.array([[names.index(path.parent.name) + 1] for path in files]),
            "image_files": cells([f"/home/somebody/photos/{path.parent.name}/{path.name}" for path in files]),
        },
    )


def cropped(places, demo_values, folder, **data):
    """(class, role, sha256) of every patch shard's row, sorted."""
    values = demo_values(
        folder / "run",
        data={name: value.format("s3://bucket") for name, value in data.items()},
        storage={"key": KEY, "secret": SECRET, "endpoint_url": places.endpoint},
    )
    run(parse_config(values, "test.yaml"), ("crop",))
    shards = [pq.read_table(path) for path in sorted((folder / "run" / "patches").iterdir())]
    rows = pa.concat_tables(shards).select(["class_name", "role", "sha256"]).to_pylist()
    return sorted((row["class_name"], row["role"], row["sha256"]) for row in rows)


def test_tars_parquet_and_benchmark_give_the_patches_of_the_tree(ray_session, places, demo_values, tmp_path):
    tree = cropped(places, demo_values, tmp_path / "tree", images="{}/tree")
    assert len(tree) == 24 * PER_CLASS
    found = {(name, digest) for name, _, digest in tree}
    for layout in ("tars", "rows"):
        other = cropped(places, demo_values, tmp_path / layout, images=f"{{}}/{layout}")
        assert {(name, digest) for name, _, digest in other} == found
    published = cropped(places, demo_values, tmp_path / "mat", images="{}/tree", classes="{}/att_splits.mat")
    assert {(name, digest) for name, _, digest in published} == found
    unseen = set(demo_classes()["unseen"])
    for name, count in {"train": 18 * (PER_CLASS - 1), "test": 18 + 6 * PER_CLASS}.items():
        mine = [row for row in published if row[1] == name]
        assert len(mine) == count
        assert name == "test" or not unseen & {row[0] for row in mine}

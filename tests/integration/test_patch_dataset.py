"""Patches as a Ray Dataset: the pixels of the kernels, from files and from a tar in a bucket, bad images named."""

import shutil
import tarfile

import numpy as np
import pytest

from vgse.config import CropConfig
from vgse.patches import cut_patches, decode_image, propose_boxes
from vgse.pipeline.patch_dataset import patch_dataset

SIZE, PATCHES = 24, 4


@pytest.fixture(scope="module")
def folder(demo_data, tmp_path_factory):
    """Six of the demo's images in two classes, and two files that are none."""
    root = tmp_path_factory.mktemp("patches") / "images"
    for number, path in enumerate(sorted(demo_data.images.glob("*/*"))[:6]):
        target = root / ("even" if number % 2 == 0 else "odd") / f"{number}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (root / "odd" / "empty.jpg").touch()
    (root / "even" / "page.jpg").write_text("<html>not found</html>")
    return root


def found(dataset):
    return {row["image_id"]: row for row in dataset.iter_rows()}


@pytest.mark.usefixtures("ray_session")
def test_every_image_gives_the_pixels_of_the_kernels_or_a_reason(folder):
    rows = found(patch_dataset(str(folder), size=SIZE, crop=CropConfig(patches=PATCHES)))
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == {
        "odd/empty.jpg": "empty",
        "even/page.jpg": "not_an_image",
    }
    assert len(rows) == 8
    for name, row in rows.items():
        assert row["class_name"] == name.split("/")[0]
        if row["reason"]:
            assert not row["patches"].any()
            assert row["patches"].shape == (PATCHES, SIZE, SIZE, 3)
            continue
        image_HW3 = decode_image((folder / name).read_bytes(), short_side=256)
        boxes_T4 = propose_boxes(image_HW3, patches=PATCHES)
        assert np.array_equal(row["boxes"], boxes_T4)
        assert np.array_equal(row["patches"], cut_patches(image_HW3, boxes_T4, SIZE))
        assert row["patches"].any()


@pytest.mark.usefixtures("ray_session")
def test_tars_give_what_files_give(folder, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in sorted(folder.glob("*/*")):
            tar.add(path, path.relative_to(folder))
    crop = CropConfig(patches=PATCHES)
    files, tars = (found(patch_dataset(str(uri), size=SIZE, crop=crop)) for uri in (folder, tmp_path))

    def content(rows):
        return {(name.rsplit(".", 1)[0], row["reason"], row["patches"].tobytes()) for name, row in rows.items()}

    assert content(tars) == {(f"images.tar/{name}", *rest) for name, *rest in content(files)}


def test_a_size_of_nothing_is_refused(folder):
    with pytest.raises(ValueError, match="size"):
        patch_dataset(str(folder), size=0)

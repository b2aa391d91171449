"""What we write loads like the published split files: same keys, dims and types."""

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from vgse.zsl.xlsa17 import class_embeddings_mat, features_mat

PUBLISHED = Path(__file__).parents[1].parent / "shared" / "data" / "xlsa17"
LOCATIONS = ("trainval_loc", "train_loc", "val_loc", "test_seen_loc", "test_unseen_loc")
NAMES = ["antelope", "grizzly+bear", "killer+whale"]


def keys(content):
    return {key for key in content if not key.startswith("__")}


def written(count=50, largest=11_788):
    numbers = np.linspace(0, largest - 1, count).astype(np.int64)
    embeddings_CK = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    data = class_embeddings_mat(
        embeddings_CK, NAMES, trainval=numbers, train=numbers[:20], val=numbers[20:], test_seen=numbers[5:9],
        test_unseen=numbers[:1],
    )  # fmt: skip
    return embeddings_CK, numbers, loadmat(io.BytesIO(data))


def test_splits_round_trip():
    embeddings_CK, numbers, content = written()
    assert keys(content) == {"att", "allclasses_names", *LOCATIONS}
    np.testing.assert_array_equal(content["att"], embeddings_CK.T)
    np.testing.assert_array_equal(content["trainval_loc"][:, 0], numbers + 1)
    assert content["test_unseen_loc"].shape == (1, 1)
    assert [str(cell[0]) for cell in content["allclasses_names"][:, 0]] == NAMES


def test_features_round_trip_and_index_as_existing_programs_do():
    features_NF = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    labels_N = np.array([0, 0, 1, 1, 2, 2])
    files = [f"JPEGImages/{NAMES[label]}/{i}.jpg" for i, label in enumerate(labels_N)]
    content = loadmat(io.BytesIO(features_mat(features_NF, labels_N, files)))
    assert keys(content) == {"features", "labels", "image_files"}
    assert content["features"].shape == (4, 6)
    assert content["labels"].shape == (6, 1)
    assert content["image_files"].shape == (6, 1)
    assert str(content["image_files"][3, 0][0]) == files[3]
    label, location = content["labels"].astype(int).squeeze() - 1, np.array([[2], [6]], np.uint16).squeeze() - 1
    np.testing.assert_array_equal(label, labels_N)
    np.testing.assert_array_equal(content["features"].T[location], features_NF[[1, 5]].astype(np.float32))


def test_more_images_than_16_bits():
    _, numbers, content = written(largest=1_300_000)
    np.testing.assert_array_equal(content["trainval_loc"][:, 0], numbers + 1)
    assert np.issubdtype(content["trainval_loc"].dtype, np.integer)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="class names"):
        class_embeddings_mat(np.ones((2, 3)), NAMES, **dict.fromkeys((x[:-4] for x in LOCATIONS), np.arange(2)))
    with pytest.raises(ValueError, match="labels"):
        features_mat(np.ones((2, 3)), np.array([0, -1]), ["a", "b"])
    with pytest.raises(ValueError, match="image files"):
        features_mat(np.ones((2, 3)), np.array([0, 1]), ["a"])


@pytest.mark.parametrize("name", ["AWA2/att_splits.mat", "CUB/sent_splits.mat", "SUN/att_splits.mat"])
def test_same_keys_dims_and_types_as_published(name):
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"the published split file {path} is not here")
    published, (_, _, ours) = loadmat(path), written()
    assert keys(ours) <= keys(published)
    for key in keys(ours):
        assert ours[key].dtype == published[key].dtype, key
        assert ours[key].ndim == published[key].ndim == 2, key
    for key in LOCATIONS:
        assert published[key].shape[1] == ours[key].shape[1] == 1
    first, own = published["allclasses_names"][0, 0], ours["allclasses_names"][0, 0]
    assert (first.shape, first.dtype.kind) == (own.shape, own.dtype.kind)

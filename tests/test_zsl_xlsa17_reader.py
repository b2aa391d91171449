"""Published files are read as they are; whatever does not fit is named with its file."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from tests.made_benchmark import CLASSES, FEATURES, NAMES, PER_CLASS, MadeBenchmark, cells
from vgse.errors import DataError, StorageError
from vgse.storage import Storage
from vgse.zsl.xlsa17 import class_embeddings_mat, features_mat
from vgse.zsl.xlsa17_reader import class_names_of, embeddings_of, read_benchmark, read_mat


def test_reads_what_the_file_holds_counting_from_zero(tmp_path):
    made = MadeBenchmark()
    benchmark = read_benchmark(Storage(), *made.write(tmp_path))
    assert benchmark.class_names == tuple(NAMES)
    np.testing.assert_array_equal(benchmark.att_CK, made.att_CK)
    np.testing.assert_array_equal(benchmark.features_NF, made.features["features"].T)
    assert benchmark.features_NF.dtype == np.float32
    np.testing.assert_array_equal(benchmark.labels_N, np.repeat(np.arange(CLASSES), PER_CLASS))
    np.testing.assert_array_equal(benchmark.trainval + 1, made.splits["trainval_loc"][:, 0])
    assert benchmark.train is not None
    np.testing.assert_array_equal(benchmark.train + 1, made.splits["train_loc"][:, 0])


def test_reads_what_our_writer_writes(tmp_path):
    made = MadeBenchmark()
    labels_N = made.features["labels"][:, 0].astype(int) - 1
    loc = {
        name: made.splits[f"{name}_loc"][:, 0] - 1 for name in ("trainval", "train", "val", "test_seen", "test_unseen")
    }
    (tmp_path / "f.mat").write_bytes(features_mat(made.features["features"].T, labels_N, [str(n) for n in labels_N]))
    (tmp_path / "s.mat").write_bytes(class_embeddings_mat(made.att_CK, NAMES, **loc))
    benchmark = read_benchmark(Storage(), str(tmp_path / "f.mat"), str(tmp_path / "s.mat"))
    assert benchmark.class_names == tuple(NAMES)
    np.testing.assert_array_equal(benchmark.att_CK, made.att_CK)
    np.testing.assert_array_equal(benchmark.labels_N, labels_N)
    np.testing.assert_array_equal(benchmark.test_unseen, loc["test_unseen"])


@pytest.mark.parametrize(
    ("name", "classes", "width", "first"),
    [
        ("AWA2/att_splits.mat", 50, 85, "antelope"),
        ("CUB/sent_splits.mat", 200, 1024, "002.Laysan_Albatross"),
        ("SUN/att_splits.mat", 717, 102, "abbey"),
    ],
)
def test_published_names_and_attributes(shared: Path, name, classes, width, first):
    path = str(shared / "data" / "xlsa17" / name)
    content = read_mat(Storage(), path)
    names = class_names_of(content, path)
    assert (len(names), names[0]) == (classes, first)
    att_CK = embeddings_of(content, classes, path)
    assert att_CK.shape == (classes, width)
    np.testing.assert_array_equal(att_CK.T, loadmat(path)["att"])


def test_att_may_lie_either_way_and_a_square_one_is_as_published():
    wide = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(embeddings_of({"att": wide}, 3, "x"), wide.T)
    np.testing.assert_array_equal(embeddings_of({"att": wide}, 2, "x"), wide)
    square = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(embeddings_of({"att": square}, 2, "x"), square.T)
    with pytest.raises(DataError, match=r"x: att is float64 \(2, 3\), which does not fit 5 classes"):
        embeddings_of({"att": wide}, 5, "x")


def test_names_as_python_programs_write_them(tmp_path):
    # An array of texts becomes a character matrix, padded with blanks.
    savemat(tmp_path / "x.mat", {"allclasses_names": np.array(["bear", "killer+whale"])})
    assert class_names_of(read_mat(Storage(), str(tmp_path / "x.mat")), "x") == ("bear", "killer+whale")


@pytest.mark.parametrize("key", ["features", "labels"])
def test_a_key_missing_from_the_features_is_named(tmp_path, key):
    made = MadeBenchmark()
    del made.features[key]
    with pytest.raises(DataError, match=rf"res101.mat: the key {key} is missing"):
        read_benchmark(Storage(), *made.write(tmp_path))


@pytest.mark.parametrize(
    "key", ["allclasses_names", "trainval_loc", "train_loc", "val_loc", "test_seen_loc", "test_unseen_loc"]
)
def test_a_key_missing_from_the_splits_is_named(tmp_path, key):
    made = MadeBenchmark()
    del made.splits[key]
    with pytest.raises(DataError, match=rf"att_splits.mat: the key {key} is missing \(there: .*att"):
        read_benchmark(Storage(), *made.write(tmp_path))


def test_the_keys_for_choices_may_be_missing_together(tmp_path):
    made = MadeBenchmark()
    del made.splits["train_loc"], made.splits["val_loc"]
    benchmark = read_benchmark(Storage(), *made.write(tmp_path))
    assert benchmark.train is None
    assert benchmark.val is None


IMAGES = CLASSES * PER_CLASS


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("splits", "test_seen_loc", [[0], [1]], rf"test_seen_loc holds image number 0, .* numbered 1 to {IMAGES}"),
        ("splits", "val_loc", [[1], [IMAGES + 1]], rf"val_loc holds image number {IMAGES + 1}, .* 1 to {IMAGES}"),
        ("splits", "val_loc", [[1.5]], "val_loc .* holds no list of whole numbers"),
        ("splits", "val_loc", np.ones((2, 2)), "val_loc .* holds no list of whole numbers"),
        ("splits", "val_loc", [[3], [3]], "val_loc lists some images twice"),
        ("splits", "val_loc", np.zeros((0, 1)), "val_loc is empty"),
        ("splits", "allclasses_names", cells([*NAMES[:-2], "x", "x"]), "allclasses_names names twice: x"),
        ("splits", "allclasses_names", np.ones((3, 1)), "allclasses_names holds no class names"),
        ("splits", "allclasses_names", cells(NAMES[:-1]), f"labels run from 1 to {CLASSES}, .* has {CLASSES - 1}"),
        ("splits", "att", np.ones((5, 7)), rf"att is float64 \(5, 7\), which does not fit {CLASSES} classes"),
        ("features", "features", np.ones((FEATURES, 5)), rf"features are float64 .*, but there are {IMAGES} labels"),
        ("features", "labels", np.zeros((IMAGES, 1)), "labels run from 0 to 0"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_named(tmp_path, part, key, value, message):
    made = MadeBenchmark()
    getattr(made, part)[key] = value
    with pytest.raises(DataError, match=message):
        read_benchmark(Storage(), *made.write(tmp_path))


def test_a_class_on_both_sides_is_named(tmp_path):
    made = MadeBenchmark()
    image = made.splits["test_unseen_loc"][0, 0]
    made.splits["test_unseen_loc"] = made.splits["test_unseen_loc"][1:]
    made.splits["trainval_loc"] = np.append(made.splits["trainval_loc"], [[image]], axis=0)
    name = NAMES[made.features["labels"][image - 1, 0] - 1].replace("+", r"\+")
    with pytest.raises(DataError, match=f"classes both seen .* and unseen .*: {name}$|: {name}\n"):
        read_benchmark(Storage(), *made.write(tmp_path))


def test_an_image_for_training_and_test_is_named(tmp_path):
    made = MadeBenchmark()
    image = made.splits["test_seen_loc"][0, 0]
    made.splits["trainval_loc"] = np.append(made.splits["trainval_loc"], [[image]], axis=0)
    with pytest.raises(DataError, match=rf"1 images are in trainval_loc and in test_seen_loc \(e.g. number {image}\)"):
        read_benchmark(Storage(), *made.write(tmp_path))


def test_a_matlab_7_3_file_is_told_how_to_save_again(tmp_path):
    # The header MATLAB writes before the HDF5 content: text to byte 116, version 2.0 and the byte order mark.
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM"
    (tmp_path / "res101.mat").write_bytes(header.ljust(512, b"\x00") + b"\x89HDF\r\n\x1a\n" + b"\x00" * 600)
    with pytest.raises(DataError, match=r"res101.mat is a MATLAB 7.3 \(HDF5\) file\n.*-v7"):
        read_mat(Storage(), str(tmp_path / "res101.mat"))


@pytest.mark.parametrize("content", [b"", b"no MATLAB file at all" * 50, b"\x00" * 300])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"x.mat cannot be read as a MATLAB file"):
        read_mat(Storage(), str(tmp_path / "x.mat"))


def test_half_a_file_is_refused(tmp_path):
    path = Path(MadeBenchmark().write(tmp_path)[0])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"res101.mat"):
        read_mat(Storage(), str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"none.mat does not exist"):
        read_mat(Storage(), str(tmp_path / "none.mat"))

"""Class embeddings come out in the benchmark's order of classes, whatever file and order they come from."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from tests.made_benchmark import cells
from vgse.errors import DataError
from vgse.storage import Storage
from vgse.zsl.embedding_files import read_class_embeddings

NAMES = ("001.Grizzly_bear", "killer+whale", "null", "002.Oak")
OTHERWISE = ("Oak", "KILLER WHALE", "grizzly-bear", "null", "one.more")
E_CK = np.random.default_rng(0).normal(size=(4, 3))
ROWS = [3, 1, 0, 2]


def read(path):
    return read_class_embeddings(Storage(), str(path), NAMES)


def write(path, names, rows):
    if path.suffix == ".mat":
        savemat(path, {"att": rows.T, "allclasses_names": cells(list(names))})
    elif path.suffix == ".npz":
        np.savez(path, class_names=np.array(names), class_embeddings=rows)
    else:
        pd.DataFrame(rows, index=list(names)).to_csv(path, header=False)


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".csv"])
def test_rows_find_their_classes_by_name(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    write(path, OTHERWISE, np.concatenate([E_CK[ROWS], np.ones((1, 3))]))
    found = read(path)
    np.testing.assert_allclose(found.embeddings_CK, E_CK)
    assert found.embeddings_CK.dtype == np.float64
    assert (found.matched, found.unused) == ("by name", 1)


def test_without_names_rows_are_taken_in_order(tmp_path):
    savemat(tmp_path / "a.mat", {"att": E_CK.T})
    np.savez(tmp_path / "a.npz", class_embeddings=E_CK.astype(np.float32))
    for name in ("a.mat", "a.npz"):
        found = read(tmp_path / name)
        np.testing.assert_allclose(found.embeddings_CK, E_CK, rtol=1e-6)
        assert found.matched == "by order"


def test_published_file_is_read_as_embeddings(shared):
    path = shared / "data" / "xlsa17" / "AWA2" / "att_splits.mat"
    wanted = ["killer whale", "Antelope"]
    found = read_class_embeddings(Storage(), str(path), wanted)
    np.testing.assert_array_equal(found.embeddings_CK, loadmat(path)["att"].T[[2, 0]])
    assert found.unused == 48


@pytest.mark.parametrize("header", [["name", "a", "b", "c"], ["", "0", "1", "2"], False])
def test_csv_with_and_without_header(tmp_path, header):
    pd.DataFrame({"n": NAMES, **{i: E_CK[:, i] for i in range(3)}}).to_csv(
        tmp_path / "a.csv", index=False, header=header
    )
    np.testing.assert_allclose(read(tmp_path / "a.csv").embeddings_CK, E_CK)


def test_csv_keeps_names_that_look_like_numbers_or_gaps(tmp_path):
    (tmp_path / "a.csv").write_text("name,x\n007,1\nNA,2\n1e3,3\n")
    found = read_class_embeddings(Storage(), str(tmp_path / "a.csv"), ["NA", "1e3", "007"])
    assert found.embeddings_CK[:, 0].tolist() == [2, 3, 1]


def test_names_alike_but_for_their_spelling_go_by_the_exact_one(tmp_path):
    np.savez(tmp_path / "a.npz", class_names=["a b", "a_b"], class_embeddings=[[1.0], [2.0]])
    found = read_class_embeddings(Storage(), str(tmp_path / "a.npz"), ["a_b", "a b"])
    assert found.embeddings_CK[:, 0].tolist() == [2, 1]
    with pytest.raises(DataError, match=r"a.npz holds more than one row for A\.B"):
        read_class_embeddings(Storage(), str(tmp_path / "a.npz"), ["A.B"])


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".csv"])
def test_classes_without_a_row_are_named(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    write(path, ("oak", "killer whale", "grizzly bea"), np.ones((3, 2)))
    with pytest.raises(DataError) as error:
        read(path)
    assert f"mine{suffix} has no embedding for 2 of 4 classes: 001.Grizzly_bear, null" in str(error.value)
    assert "nearest to 001.Grizzly_bear is grizzly bea" in str(error.value)


def test_a_class_named_twice_is_named(tmp_path):
    write(tmp_path / "a.csv", (*NAMES, "oak", "Oak"), np.ones((6, 2)))
    found = read(tmp_path / "a.csv")
    assert found.unused == 2
    write(tmp_path / "a.csv", (*NAMES, "null"), np.ones((5, 2)))
    with pytest.raises(DataError, match="more than one row for null"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("oak,1,2\nkiller whale,1,\n", "embeddings of killer whale are not finite"),
        ("oak,1,2\nkiller whale,1,tall\n", "embeddings of killer whale are not finite"),
        ("oak,1,2\nkiller whale,nan,1\n", "embeddings of killer whale are not finite"),
        ("oak\nkiller whale\n", "no numbers behind the class names"),
        ("oak,1,2\nkiller whale,1,2,3\n", "cannot be read as CSV"),
        ("", "cannot be read as CSV"),
    ],
)
def test_broken_csv(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=rf"a.csv.*{message}"):
        read(tmp_path / "a.csv")


def test_broken_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, class_names=np.array(NAMES, object), class_embeddings=E_CK)
    with pytest.raises(DataError, match=r"a.npz cannot be read .*Object arrays"):
        read(path)
    np.savez(path, class_names=NAMES, embeddings=E_CK)
    with pytest.raises(DataError, match=r"class_embeddings is missing \(there: class_names, embeddings\)"):
        read(path)
    np.savez(path, class_names=NAMES, class_embeddings=E_CK[:2])
    with pytest.raises(DataError, match=r"float64 \(2, 3\), which does not fit 4 classes"):
        read(path)
    for content in (b"no archive", b"PK\x03\x04 half an archive", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npz cannot be read"):
            read(path)
    np.save(tmp_path / "b.npy", E_CK)
    (tmp_path / "b.npy").rename(path)
    with pytest.raises(DataError, match=r"a.npz cannot be read"):
        read(path)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"class embeddings are read from .mat, .npz, .csv"):
        read(tmp_path / "a.pickle")

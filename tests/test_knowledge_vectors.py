"""The user's own class vectors, in each format, and what is said of broken ones."""

import numpy as np
import pandas as pd
import pytest

from vgse.data.knowledge.vectors import vectors_source
from vgse.errors import DataError
from vgse.storage import Storage

NAMES = ["bear", "null", "007"]
VECTORS = np.random.default_rng(0).normal(size=(3, 4))


def written(folder, kind):
    frame = pd.DataFrame(VECTORS, columns=list("abcd"))
    frame.insert(0, "class_name", NAMES)
    path = folder / f"vectors.{kind.split('-')[0]}"
    if kind == "npz":
        np.savez(path, class_names=np.array(NAMES), vectors=VECTORS)
    elif kind == "npz-bytes":
        np.savez(path, class_names=np.array(NAMES).astype("S"), vectors=VECTORS)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet-list":
        pd.DataFrame({"class_name": NAMES, "vector": list(VECTORS)}).to_parquet(path)
    else:
        frame.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("kind", ["npz", "npz-bytes", "csv", "parquet-list", "parquet-columns"])
def test_every_format_gives_the_same(tmp_path, kind):
    found = vectors_source(Storage(), written(tmp_path, kind), ["007", "eel", "bear", "null"])
    assert found.name == "vectors"
    assert found.known_C.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(found.vectors_CD, np.stack([VECTORS[2], np.zeros(4), VECTORS[0], VECTORS[1]]))


def refused(path, said):
    with pytest.raises(DataError) as caught:
        vectors_source(Storage(), str(path), ["bear", "eel"])
    assert said in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("class_name,a,b\nbear,1,x\neel,2,3\n", "b of bear is 'x', no number"),
        ("class_name,a,b\nbear,1,2\neel,2,\n", "b of eel is '', no number"),
        ("class_name,a,b\nbear,1,2\neel,2,nan\n", "eel"),
        ("class_name,a,b\nbear,1,2\neel,2,inf\n", "vector of eel is not finite"),
        ("class_name,a\nbear,1\nbear,2\n", "names the class bear twice"),
        ("class_name\nbear\neel\n", "have no values"),
        ("class,a\nbear,1\n", "no column class_name"),
        ("class_name,a\ncat,1\ndog,2\n", "names like 'cat', 'dog', the classes are called 'bear', 'eel'"),
    ],
)
def test_broken_csv(tmp_path, content, said):
    path = tmp_path / "v.csv"
    path.write_text(content)
    refused(path, said)


def test_broken_parquet(tmp_path):
    path = tmp_path / "v.parquet"
    pd.DataFrame({"class_name": ["bear", "eel"], "v": [[1.0, 2.0], [1.0]]}).to_parquet(path)
    refused(path, "the vector of bear has 2 values, that of eel 1")
    pd.DataFrame({"class_name": ["bear", "eel"], "v": [["a"], ["b"]]}).to_parquet(path)
    refused(path, "does not hold numbers")
    pd.DataFrame({"class_name": ["bear", "eel"], "v": [[1.0], [np.nan]]}).to_parquet(path)
    refused(path, "vector of eel is not finite")
    pd.DataFrame({"class_name": ["bear", "eel"], "a": [1.0, None], "b": [1, 2]}).to_parquet(path)
    refused(path, "vector of eel is not finite")


def test_broken_npz(tmp_path):
    path = tmp_path / "v.npz"
    names = np.array(["bear", "eel"])
    np.savez(path, class_names=names, class_embeddings=np.ones((2, 3)))
    refused(path, "no column vectors")
    np.savez(path, class_names=names, vectors=np.ones((3, 2)))
    refused(path, "2 class_names, vectors of shape (3, 2)")
    np.savez(path, class_names=names.astype(object), vectors=np.ones((2, 2)))
    refused(path, "cannot be read")
    np.savez(path, class_names=np.arange(2), vectors=np.ones((2, 2)))
    refused(path, "class_names is int64")
    path.write_bytes(b"no zip")
    refused(path, "cannot be read")
    other = tmp_path / "v.txt"
    refused(other, "no known format")

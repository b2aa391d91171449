"""Texts of classes: every file format says the same, and the vectors are what the formulas say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vgse.config import KnowledgeConfig
from vgse.data.knowledge import missing_report, read_sources
from vgse.data.knowledge.tables import read_class_table
from vgse.data.words import class_word_vectors, load_vocabulary
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage

WORDS = ["bear", "wolf", "grey", "big", "animal", "the", "canine", "London"]
ROWS = [
    {
        "class_name": "bear",
        "synonyms": ["bear", "big bear"],
        "gloss": "The big animal, the bear",
        "hypernyms": [["animal"], ["big animal", "canine"]],
    },
    {"class_name": "wolf", "synonyms": ["grey wolf"], "gloss": "the grey canine", "hypernyms": [["canine"]]},
    {"class_name": "cow", "synonyms": [], "gloss": "the", "hypernyms": []},
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.npz"
    np.savez(path, words=np.array(WORDS), vectors=np.random.default_rng(0).normal(size=(len(WORDS), 6)))
    return load_vocabulary(path)


def written(folder, kind):
    path = folder / f"texts.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif kind == "parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    else:
        path.write_text(
            "class_name,synonyms,gloss,hypernyms\n"
            'bear,bear; big bear,"The big animal, the bear",animal > big animal; canine\n'
            "wolf,grey wolf,the grey canine,canine\ncow,,the,\n"
        )
    return str(path)


def read(uri, vocabulary, class_names=("wolf", "bear"), **settings):
    words_CW = np.zeros((len(class_names), 6))
    knowledge = KnowledgeConfig(**{"names": False, "texts": uri, **settings})
    return {one.name: one for one in read_sources(Storage(), knowledge, class_names, words_CW, vocabulary)}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_format_gives_what_the_formulas_say(tmp_path, vocabulary, kind):
    found = read(written(tmp_path, kind), vocabulary, sif=0.05)
    assert list(found) == ["synonyms", "gloss", "hypernyms"]
    v = vocabulary
    np.testing.assert_allclose(found["synonyms"].vectors_CD[1], (v["bear"] + (v["big"] + v["bear"]) / 2) / 2)
    # depth 0 weighs 1, depth 1 weighs 1/2
    second = ((v["big"] + v["animal"]) / 2 + v["canine"]) / 2
    np.testing.assert_allclose(found["hypernyms"].vectors_CD[1], (v["animal"] + second / 2) / 1.5)
    # nine words in all three glosses; the four times, canine and grey once
    the, rare = 0.05 / (0.05 + 4 / 9), 0.05 / (0.05 + 1 / 9)
    expected = (the * v["the"] + rare * (v["grey"] + v["canine"])) / (the + 2 * rare)
    np.testing.assert_allclose(found["gloss"].vectors_CD[0], expected)


def test_without_sif_a_text_is_the_plain_mean(tmp_path, vocabulary):
    found = read(written(tmp_path, "jsonl"), vocabulary, sif=0.0, text_fields=("gloss",))
    expected = (vocabulary["the"] + vocabulary["grey"] + vocabulary["canine"]) / 3
    np.testing.assert_allclose(found["gloss"].vectors_CD[0], expected)


def test_empty_cells_and_missing_rows_are_not_known(tmp_path, vocabulary):
    names = ["wolf", "cow", "eel", "bear"]
    found = read(written(tmp_path, "csv"), vocabulary, names, names=True)["synonyms"]
    assert found.known_C.tolist() == [True, False, False, True]
    assert not found.vectors_CD[1:3].any()
    (said,) = missing_report([found], names)
    assert "synonyms does not know 2 of 4" in said
    assert "cow, eel" in said


def test_a_class_that_nothing_knows_is_named(tmp_path, vocabulary):
    with pytest.raises(DataError, match="eel - 1 class"):
        read(written(tmp_path, "csv"), vocabulary, ["wolf", "eel"])


def test_column_names_are_checked(tmp_path, vocabulary):
    uri = written(tmp_path, "jsonl")
    with pytest.raises(DataError, match=r"gloos.*\n.*it has synonyms, gloss, hypernyms"):
        read(uri, vocabulary, text_fields=("gloos",))
    with pytest.raises(ConfigError, match="another source is called vectors"):
        read(uri, vocabulary, text_fields=("vectors",))


def test_a_file_of_other_classes_shows_both_sides(tmp_path, vocabulary):
    with pytest.raises(DataError, match=r"'bear', 'wolf'.*the classes are called 'n0', 'n1'"):
        read(written(tmp_path, "parquet"), vocabulary, ["n0", "n1"])


def test_a_column_in_another_language_is_refused(tmp_path, vocabulary):
    path = tmp_path / "t.jsonl"
    path.write_text('{"class_name": "wolf", "gloss": "graues Raubtier"}\n')
    with pytest.raises(DataError, match="gloss has no word"):
        read(str(path), vocabulary, ["wolf"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", '{"class_name": "a"}\n{"class_name": \n', "line 2 is not JSON"),
        ("t.jsonl", '{"class_name": "a"}\n[1]\n', "line 2 is not a JSON object"),
        ("t.jsonl", '{"name": "a"}\n', "line 1 has no class_name"),
        ("t.jsonl", '{"class_name": "a"}\n{"class_name": "a"}\n', "names the class a twice, in rows 1 and 2"),
        ("t.jsonl", '{"class_name": 3}\n', "row 1: class_name is 3"),
        ("t.csv", "name,gloss\na,b\n", "has no column class_name"),
        ("t.csv", "class_name,gloss\na,b\nc,d,e,f\n", "line 3"),
        ("t.csv", "class_name,gloss\na,b,c\nd,e,f\n", "not a CSV file"),
        ("t.csv", "", "not a CSV file"),
        ("t.csv", b"class_name,gloss\na,\xff\n", "not UTF-8"),
        ("t.parquet", "PAR1", "not a Parquet file"),
        ("t.txt", "a", "no known format"),
    ],
)
def test_broken_files_are_explained(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_class_table(Storage(), str(path), "knowledge.texts")
    assert said in str(caught.value)
    assert "knowledge.texts" in str(caught.value)
    assert name in str(caught.value)


def test_csv_keeps_names_that_look_like_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("class_name,gloss,description\nnull,nan,x\n007,y\n")
    table = read_class_table(Storage(), str(path), "knowledge.texts")
    assert list(table.rows) == ["null", "007"]
    assert table.rows["null"]["gloss"] == "nan"
    assert not table.rows["007"]["description"]


def test_cells_of_other_kinds_name_the_class(tmp_path, vocabulary):
    path = tmp_path / "t.jsonl"
    path.write_text('{"class_name": "wolf", "gloss": {"en": "grey"}}\n')
    with pytest.raises(DataError, match="wolf: gloss is"):
        read(str(path), vocabulary, ["wolf"])


def test_the_real_texts(shared):
    uri = str(shared / "data" / "cifar100" / "class_texts.jsonl")
    rows = [json.loads(line) for line in Path(uri).read_text().splitlines()]
    names = [row["class_name"] for row in rows]
    glove = load_vocabulary(shared / "data" / "word_vectors" / "glove_100d_22k.bin")
    sources = read_sources(
        Storage(),
        KnowledgeConfig(texts=uri, taxonomy="texts"),
        names,
        class_word_vectors(names, glove),
        glove,
    )
    by_name = {one.name: one for one in sources}
    assert list(by_name) == ["names", "synonyms", "gloss", "hypernyms", "taxonomy"]
    assert all(one.known_C.all() and np.isfinite(one.vectors_CD).all() for one in sources)
    # A class's nearest by gloss or hypernyms must make sense: bear, beaver and wolf are mammals, bed is furniture.
    for source in ("gloss", "hypernyms", "taxonomy"):
        centred = by_name[source].vectors_CD - by_name[source].vectors_CD.mean(axis=0)
        unit = dict(zip(names, centred / np.linalg.norm(centred, axis=1, keepdims=True), strict=True))
        assert unit["bear"] @ unit["wolf"] > unit["bear"] @ unit["bed"]
        assert unit["bed"] @ unit["couch"] > unit["bed"] @ unit["wolf"]

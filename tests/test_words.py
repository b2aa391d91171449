"""Word vectors: every format, averaging, aliases, and all missing words named at once."""

import numpy as np
import pytest
from gensim.models import KeyedVectors

from vgse.data.words import (
    check_aliases,
    class_word_vectors,
    load_vocabulary,
    name_tokens,
    prepare_words,
    read_aliases,
)
from vgse.errors import DataError
from vgse.storage import Storage

WORDS = ["lawn", "mower", "bear", "polar", "London"]
VECTORS = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


def written(folder, kind):
    vectors = KeyedVectors(8)
    vectors.add_vectors(WORDS, VECTORS)
    path = folder / f"words{kind}"
    if kind == ".npz":
        np.savez(path, words=np.array(WORDS), vectors=VECTORS)
    elif kind == ".glove.txt":
        lines = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(WORDS, VECTORS, strict=True)]
        path.write_text("\n".join(lines) + "\n")
    else:
        vectors.save_word2vec_format(str(path), binary=kind == ".bin")
    return path


@pytest.mark.parametrize("kind", [".bin", ".txt", ".vec", ".glove.txt", ".npz"])
def test_every_format_gives_the_same_vectors(tmp_path, kind):
    vocabulary = load_vocabulary(written(tmp_path, kind))
    np.testing.assert_allclose(class_word_vectors(["bear", "polar"], vocabulary), VECTORS[[2, 3]], atol=1e-5)


def test_names_are_averaged_and_aliased(tmp_path):
    vocabulary = load_vocabulary(written(tmp_path, ".npz"))
    found = class_word_vectors(["lawn_mower", "001.Polar_bear", "london", "ursine"], vocabulary, {"ursine": "bear"})
    np.testing.assert_allclose(found[0], VECTORS[:2].mean(0), atol=1e-7)
    np.testing.assert_allclose(found[1], VECTORS[[3, 2]].mean(0), atol=1e-7)
    np.testing.assert_allclose(found[2], VECTORS[4], atol=1e-7)
    np.testing.assert_allclose(found[3], VECTORS[2], atol=1e-7)


def test_published_spellings():
    assert name_tokens("grizzly+bear") == ["grizzly", "bear"]
    assert name_tokens("001.Black_footed_Albatross") == ["Black", "footed", "Albatross"]


def test_all_missing_words_are_named_at_once(tmp_path):
    vocabulary = load_vocabulary(written(tmp_path, ".npz"))
    with pytest.raises(DataError) as caught:
        class_word_vectors(["bear", "lawn_blarg", "zzyx"], vocabulary)
    assert "lawn_blarg: blarg" in str(caught.value)
    assert "zzyx: zzyx" in str(caught.value)
    assert "data.aliases" in str(caught.value)


def test_an_alias_of_no_class_is_refused():
    with pytest.raises(DataError, match="mooose"):
        check_aliases({"mooose": "bear"}, ["bear"])


def test_aliases_from_a_file_stand_behind_the_configuration(tmp_path):
    path = tmp_path / "aliases.yaml"
    path.write_text("n01440764: tench\nn02132136: brown bear\n")
    found = read_aliases(Storage(), {"n02132136": "bear"}, str(path))
    assert found == {"n01440764": "tench", "n02132136": "bear"}
    path.write_text("- tench\n")
    with pytest.raises(DataError, match="must map class names to texts"):
        read_aliases(Storage(), {}, str(path))


def test_not_word_vectors(tmp_path):
    path = tmp_path / "words.bin"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"words\.bin cannot be read"):
        load_vocabulary(path)


def test_centring_uses_seen_classes_only():
    words = np.random.default_rng(1).normal(size=(6, 4)) + 3
    seen = np.array([True, True, True, True, False, False])
    other = words.copy()
    other[4:] += 100
    np.testing.assert_array_equal(prepare_words(words, seen, "centred")[:4], prepare_words(other, seen, "centred")[:4])
    np.testing.assert_allclose(np.linalg.norm(prepare_words(words, seen, "l2"), axis=1), 1)
    np.testing.assert_array_equal(prepare_words(words, seen, "raw"), words)

"""Classes by their ancestors: information content, several parents, circles, reduction."""

import numpy as np
import pytest

from vgse.config import KnowledgeConfig
from vgse.data.knowledge import read_sources
from vgse.data.knowledge.taxonomy import MOST_COORDINATES, Place, taxonomy_source
from vgse.errors import DataError
from vgse.storage import Storage

EDGES = """child,parent
bear,mammal
wolf,canine
dog,canine
canine,mammal
dog,pet
goldfish,pet
goldfish,fish
mammal,animal
fish,animal
pet,animal
"""
NAMES = ["bear", "wolf", "dog", "goldfish", "canine"]


def read(tmp_path, text, names=NAMES):
    path = tmp_path / "edges.csv"
    path.write_text(text)
    knowledge = KnowledgeConfig(names=False, taxonomy=str(path))
    (source,) = read_sources(Storage(), knowledge, names, np.zeros((len(names), 2)), None)
    return source


def test_coordinates_are_information_content(tmp_path):
    found = read(tmp_path, EDGES)
    assert found.known_C.all()
    # canine (3 of 5: wolf, dog and itself), fish (1), mammal (4), pet (2); animal is above all and left out
    canine, fish, mammal, pet = -np.log(np.array([3, 1, 4, 2]) / 5)
    expected = [
        [0, 0, mammal, 0],
        [canine, 0, mammal, 0],
        [canine, 0, mammal, pet],
        [0, fish, 0, pet],
        [canine, 0, mammal, 0],
    ]
    np.testing.assert_allclose(found.vectors_CD, expected)


def test_shares_count_known_classes_only(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text(EDGES)
    knowledge = KnowledgeConfig(taxonomy=str(path))
    names = ["bear", "dog", "chair"]
    _, found = read_sources(Storage(), knowledge, names, np.ones((3, 2)), None)
    assert found.known_C.tolist() == [True, True, False]
    np.testing.assert_allclose(found.vectors_CD, [[0, 0], [np.log(2), np.log(2)], [0, 0]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EDGES + "animal,canine\n", "runs in a circle"),
        ("child,above\na,b\n", "no column parent"),
        ("child,parent\nbear,mammal\nwolf,\n", "row 2: child or parent is empty"),
        ("child,parent\ncat,mammal\n", "names like 'cat', 'mammal'"),
        ("child,parent\nbear,x\nwolf,x\ndog,x\ngoldfish,x\ncanine,x\n", "does not tell the classes apart"),
    ],
)
def test_broken_taxonomies_are_explained(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert "knowledge.taxonomy" in str(caught.value)


def test_a_circle_is_shown(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, EDGES + "animal,canine\n")
    for node in ("animal", "canine", "mammal"):
        assert node in str(caught.value)
    assert "goldfish" not in str(caught.value)


def random_places(classes, ancestors, each, seed=0):
    rng = np.random.default_rng(seed)
    chosen = rng.integers(ancestors, size=(classes, each))
    names = [f"class_{i}" for i in range(classes)]
    return names, {name: Place(None, {f"node_{a}" for a in row}) for name, row in zip(names, chosen, strict=True)}


def test_many_ancestors_are_reduced_and_keep_their_geometry():
    names, places = random_places(200, 900, 8)
    found = taxonomy_source(places, names, "x").vectors_CD
    assert found.shape[1] <= MOST_COORDINATES
    # 200 classes span at most 200 directions, so no inner product may be lost.
    counts = {a: sum(a in place.ancestors for place in places.values()) for p in places.values() for a in p.ancestors}
    first, second = places["class_0"].ancestors, places["class_1"].ancestors
    for one, row in ((first, 0), (second, 1)):
        shared = sum(np.log(200 / counts[a]) ** 2 for a in first & one)
        np.testing.assert_allclose(found[0] @ found[row], shared, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found, taxonomy_source(places, names, "x").vectors_CD)


def test_more_classes_than_coordinates():
    names, places = random_places(2000, 900, 8)
    assert taxonomy_source(places, names, "x").vectors_CD.shape == (2000, MOST_COORDINATES)


def test_texts_give_places_by_their_levels(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("class_name,hypernyms\nbear,mammal>animal;beast\nwolf,canine>mammal>animal;beast\ncow,\n")
    np.savez(tmp_path / "w.npz", words=np.array(["mammal", "canine"]), vectors=np.eye(2))
    from vgse.data.words import load_vocabulary

    knowledge = KnowledgeConfig(texts=str(path), taxonomy="texts")
    sources = read_sources(
        Storage(), knowledge, ["bear", "wolf", "cow"], np.ones((3, 2)), load_vocabulary(tmp_path / "w.npz")
    )
    assert [one.name for one in sources] == ["names", "hypernyms", "taxonomy"]
    assert sources[-1].known_C.tolist() == [True, True, False]
    np.testing.assert_allclose(sources[-1].vectors_CD, [[0], [np.log(2)], [0]])

"""WordNet from a folder: senses, what is read, and what is said of a folder that is none."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vgse.config import KnowledgeConfig
from vgse.data.knowledge import read_sources
from vgse.data.knowledge.wordnet import FILES, read_wordnet
from vgse.data.words import load_vocabulary
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage

LICENCE = "  1 This is a test dictionary in the format of WordNet 3.0 Copyright 2006.  \n"
# key: lemmas, parents, gloss; a parent with `~` is one by instance
SYNSETS = {
    "entity": (["entity"], [], "that which exists"),
    "plant": (["plant", "flora"], ["entity"], "a living thing; \"plants need light\""),
    "food": (["food", "solid_food"], ["entity"], "what is eaten"),
    "fruit": (["fruit"], ["plant", "food"], "the ripened body of a seed plant"),
    "apple": (["apple"], ["fruit"], "fruit with red skin; \"an apple a day\""),
    "apple_tree": (["apple", "orchard_apple_tree"], ["plant"], "tree bearing apples"),
    "crab": (["crab_apple", "crabapple"], ["apple"], "small sour apple"),
    "sloth": (["three-toed_sloth", "ai"], ["entity"], "a sloth with three claws"),
    "newton": (["Newton"], ["~apple"], "one famous apple"),
}  # fmt: skip


def write_wordnet(folder: Path) -> dict[str, int]:
    """A dictionary as wndb(5WN) and lexnames(5WN) describe it; returns the byte offset of each synset."""

    def line(key: str, offsets: dict[str, int]) -> str:
        lemmas, parents, gloss = SYNSETS[key]
        words = " ".join(f"{lemma} 0" for lemma in lemmas)
        pointers = "".join(
            f" {'@i' if parent[0] == '~' else '@'} {offsets.get(parent.strip('~'), 0):08d} n 0000" for parent in parents
        )
        return f"{offsets.get(key, 0):08d} 03 n {len(lemmas):02x} {words} {len(parents):03d}{pointers} | {gloss}  \n"

    offsets: dict[str, int] = {}
    at = len(LICENCE)
    for key in SYNSETS:
        offsets[key], at = at, at + len(line(key, {}))
    for name in FILES:
        (folder / name).write_text("" if name.endswith(".exc") else LICENCE)
    (folder / "noun.exc").write_text("fruitses fruit\n")
    (folder / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n02\tadv.all\t4\n03\tnoun.Tops\t1\n")
    (folder / "data.noun").write_text(LICENCE + "".join(line(key, offsets) for key in SYNSETS))
    senses: dict[str, list[int]] = {}
    for key, (lemmas, _, _) in SYNSETS.items():
        for lemma in lemmas:
            senses.setdefault(lemma.lower(), []).append(offsets[key])
    (folder / "index.noun").write_text(
        LICENCE
        + "".join(
            f"{lemma} n {len(at)} 1 @ {len(at)} 0 {' '.join(f'{o:08d}' for o in at)}  \n"
            for lemma, at in sorted(senses.items())
        )
    )
    return offsets


@pytest.fixture
def wordnet(tmp_path):
    pytest.importorskip("nltk", reason="WordNet is read with the extra vgse[wordnet]")
    folder = tmp_path / "dict"
    folder.mkdir()
    return folder, write_wordnet(folder)


def entries(folder, names, senses=None):
    return read_wordnet(Storage(), str(folder), senses, names)


def test_an_entry_has_names_definition_and_all_levels(wordnet):
    folder, offsets = wordnet
    found = entries(folder, ["apple"])["apple"]
    assert found.synonyms == ["apple"]
    assert found.gloss == "fruit with red skin"
    assert found.hypernyms == [["fruit"], ["plant", "flora", "food", "solid food"], ["entity"]]
    assert found.place.node == f"n{offsets['apple']:08d}"
    assert found.place.ancestors == {f"n{offsets[key]:08d}" for key in ("fruit", "plant", "food", "entity")}


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("apple", "fruit with red skin"),  # two senses: the first
        ("orchard_apple_tree", "tree bearing apples"),
        ("Crab Apple", "small sour apple"),
        ("012.crab+apple", "small sour apple"),
        ("apples", "fruit with red skin"),
        ("three-toed_sloth", "a sloth with three claws"),
        ("green_apple", "fruit with red skin"),  # the last word
        ("newton", "one famous apple"),
    ],
)
def test_the_rule_of_senses(wordnet, name, definition):
    assert entries(wordnet[0], [name])[name].gloss == definition


def test_ids_in_names_and_written_senses_come_first(wordnet, tmp_path):
    folder, offsets = wordnet
    by_id = f"n{offsets['apple_tree']:08d}_apple"
    senses = tmp_path / "senses.yaml"
    senses.write_text(f"apple: apple.n.02\nfruit: n{offsets['crab']:08d}\nelsewhere: x.n.01\n")
    found = entries(folder, [by_id, "apple", "fruit", "xyzzy"], str(senses))
    assert found[by_id].gloss == found["apple"].gloss == "tree bearing apples"
    assert found["fruit"].gloss == "small sour apple"
    assert "xyzzy" not in found


def test_instances_have_hypernyms(wordnet):
    assert entries(wordnet[0], ["newton"])["newton"].hypernyms[0] == ["apple"]


@pytest.mark.parametrize("sense", ["apple.n.03", "apple.n.00", "apple.v.01", "n00000003", "apple"])
def test_a_written_sense_must_exist(wordnet, tmp_path, sense):
    senses = tmp_path / "senses.yaml"
    senses.write_text(f"apple: {sense}\n")
    with pytest.raises(DataError, match=r"knowledge.wordnet_senses: apple is"):
        entries(wordnet[0], ["apple"], str(senses))


@pytest.mark.parametrize("text", ["- apple\n", "apple: 3\n", "a: [\n"])
def test_a_file_of_senses_is_a_mapping(wordnet, tmp_path, text):
    senses = tmp_path / "senses.yaml"
    senses.write_text(text)
    with pytest.raises(DataError, match=r"knowledge.wordnet_senses"):
        entries(wordnet[0], ["apple"], str(senses))


def test_a_folder_without_the_files(wordnet):
    folder, _ = wordnet
    (folder / "index.verb").unlink()
    (folder / "data.noun").unlink()
    with pytest.raises(DataError, match=r"knowledge.wordnet: .* lacks data.noun, index.verb"):
        entries(folder, ["apple"])
    with pytest.raises(DataError, match=r"knowledge.wordnet: .*nowhere lacks"):
        entries(folder / "nowhere", ["apple"])


def test_moved_offsets_are_a_damaged_file(wordnet):
    folder, _ = wordnet
    text = (folder / "data.noun").read_text()
    (folder / "data.noun").write_bytes(text.replace("\n", "\r\n").encode())
    with pytest.raises(DataError, match="damaged near apple"):
        entries(folder, ["apple"])


def test_an_index_that_is_none(wordnet):
    folder, _ = wordnet
    (folder / "index.noun").write_text("apple n one\n")
    with pytest.raises(DataError, match="cannot be read"):
        entries(folder, ["apple"])


def test_ids_of_another_version(wordnet):
    folder, _ = wordnet
    assert entries(folder, ["n00000007", "apple"]).keys() == {"apple"}
    (folder / "data.adj").write_text(LICENCE.replace("3.0", "3.1"))
    with pytest.raises(DataError, match=r"no n00000007 .*WordNet 3\.1"):
        entries(folder, ["n00000007", "apple"])


def test_files_that_others_may_write_are_read(wordnet):
    folder, _ = wordnet
    (folder / "data.noun").chmod(0o666)
    assert entries(folder, ["apple"])["apple"].synonyms == ["apple"]


def test_without_nltk_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.data", None)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ConfigError, match=r'pip install "vgse\[wordnet\]"'):
        entries(tmp_path, ["apple"])


def test_sources_and_taxonomy_from_wordnet(wordnet, tmp_path):
    folder, _ = wordnet
    words = ["apple", "fruit", "red", "sour", "plant", "food", "sloth", "toed"]
    np.savez(tmp_path / "w.npz", words=np.array(words), vectors=np.eye(8))
    names = ["apple", "crab_apple", "sloth", "three-toed_sloth"]
    knowledge = KnowledgeConfig(wordnet=str(folder), taxonomy="wordnet")
    found = read_sources(Storage(), knowledge, names, np.ones((4, 8)), load_vocabulary(tmp_path / "w.npz"))
    by_name = {one.name: one for one in found}
    assert list(by_name) == ["names", "wordnet_synonyms", "wordnet_gloss", "wordnet_hypernyms", "taxonomy"]
    assert by_name["wordnet_synonyms"].known_C.tolist() == [True, True, False, True]
    # apple's levels: fruit (1), plant, flora, food, solid food (1/2); flora and solid are no words here
    expected = np.zeros(8)
    expected[1], expected[4], expected[5] = 1 / 1.5, 1 / 6 / 1.5, 1 / 3 / 1.5
    np.testing.assert_allclose(by_name["wordnet_hypernyms"].vectors_CD[0], expected)
    # apple is above crab apple and counts for both; entity is above all three known classes
    taxonomy = by_name["taxonomy"].vectors_CD
    assert taxonomy.shape == (4, 4)
    np.testing.assert_allclose(taxonomy[0], np.full(4, np.log(3 / 2)))
    np.testing.assert_allclose(taxonomy[0], taxonomy[1])
    assert not taxonomy[2:].any()


def test_words_that_wordnet_does_not_have(wordnet, tmp_path):
    np.savez(tmp_path / "w.npz", words=np.array(["apple"]), vectors=np.eye(1))
    with pytest.raises(DataError, match=r"knows none of the 1 classes"):
        read_sources(
            Storage(), KnowledgeConfig(wordnet=str(wordnet[0])), ["xyzzy"], np.ones((1, 1)),
            load_vocabulary(tmp_path / "w.npz"),
        )  # fmt: skip


def test_the_folder_may_lie_in_any_store(wordnet):
    folder, _ = wordnet
    for name in FILES:
        Storage().write_bytes(f"memory://wordnet-test/{name}", (folder / name).read_bytes())
    assert entries("memory://wordnet-test", ["apple"]) == entries(folder, ["apple"])

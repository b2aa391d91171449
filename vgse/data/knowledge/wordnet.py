"""WordNet (Fellbaum 1998) from a folder of its dictionary files, read by NLTK: senses, synonyms, glosses, hypernyms."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vgse.data.knowledge.taxonomy import Place
from vgse.data.words import name_tokens, read_text_mapping
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage, join

_PARTS = ("noun", "verb", "adj", "adv")
# NLTK loads the whole index whatever is asked for, and finds kinds of adjectives in their data.
FILES = ("lexnames", "data.noun", "data.adj", *(f"index.{p}" for p in _PARTS), *(f"{p}.exc" for p in _PARTS))
_IMAGENET_ID = re.compile(r"(?<![0-9A-Za-z])n(\d{8})(?!\d)")
_SENSE = re.compile(r"[^\s]+\.n\.\d+")
_UNPACK = "give the folder of WordNet 3.0's dictionary files, unpacked as published (new line ends move the offsets)"


@dataclass(frozen=True)
class Entry:
    """What WordNet says of one class: its names, its definition, the names above it by depth, its place."""

    synonyms: list[str]
    gloss: str
    hypernyms: list[list[str]]
    place: Place


def read_wordnet(storage: Storage, uri: str, senses_uri: str | None, class_names: Sequence[str]) -> dict[str, Entry]:
    """Entries of the classes that WordNet knows.

    A class's sense is, in this order: the one written for it in the file of senses; the ImageNet id in its name (n and
    8 digits, the offset of a noun in WordNet 3.0); the first, that is most frequent, noun sense of its name (as
    written, then its words joined by underscores); the first noun sense of the name's last word.

    Args:
        storage: reads the files.
        uri: folder of the dictionary.
        senses_uri: YAML file of class names to `n07739125` or `apple.n.01`.
        class_names: the classes.

    Raises:
        ConfigError: NLTK is not installed.
        DataError: a file is missing or damaged, a written sense does not exist, or ids do not fit this WordNet.
    """
    senses = _read_senses(storage, senses_uri)
    with _opened(storage, uri) as reader:
        entries = {}
        for name in class_names:
            try:
                synset = _written_sense(reader, name, senses[name]) if name in senses else _sense(reader, name, uri)
                if synset is not None:
                    entries[name] = _entry(synset)
            except DataError:
                raise
            except Exception as error:  # a damaged file shows as almost any error of the parser
                raise DataError(f"knowledge.wordnet: {uri} is damaged near {name} ({error!r})", _UNPACK) from None
    return entries


@contextmanager
def _opened(storage: Storage, uri: str) -> Iterator[Any]:
    try:
        import nltk.data
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
    except ImportError:
        raise ConfigError(
            "knowledge.wordnet needs NLTK, which is not installed", 'pip install "vgse[wordnet]"'
        ) from None

    class Reader(WordNetCorpusReader):
        def map_wn(self, version: str = "wordnet") -> None:
            """Other languages are not asked for; mapping their versions would need NLTK's own download."""

    absent = sorted(set(FILES) - set(storage.list_names(uri)))
    if absent:
        raise DataError(f"knowledge.wordnet: {uri} lacks {', '.join(absent)}", _UNPACK)
    # NLTK reads only private files below folders registered with it: a copy serves any owner, rights and store.
    with TemporaryDirectory(prefix="vgse-wordnet-") as folder:
        for name in FILES:
            target = Path(folder, name)
            target.touch(mode=0o600)
            target.write_bytes(storage.read_bytes(join(uri, name)))
        nltk.data.path.append(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no other languages here; offsets that miss are handled below
                try:
                    reader = Reader(folder, None)
                except Exception as error:
                    raise DataError(f"knowledge.wordnet: {uri} cannot be read ({error!r})", _UNPACK) from None
                yield reader
        finally:
            nltk.data.path.remove(folder)


def _read_senses(storage: Storage, uri: str | None) -> Mapping[str, str]:
    return {} if uri is None else read_text_mapping(storage, uri, "knowledge.wordnet_senses", "apple: apple.n.01")


def _written_sense(reader: Any, name: str, sense: str) -> Any:
    synset = None
    if match := re.fullmatch(_IMAGENET_ID, sense):
        synset = reader.synset_from_pos_and_offset("n", int(match[1]))
    elif _SENSE.fullmatch(sense):
        lemma, _, number = sense.lower().rsplit(".", 2)
        found = reader.synsets(lemma, "n")
        synset = found[int(number) - 1] if 0 < int(number) <= len(found) else None
    if synset is None:
        raise DataError(
            f"knowledge.wordnet_senses: {name} is {sense!r}, which is no noun sense of this WordNet",
            "write an id like n07739125 or a sense like apple.n.01",
        )
    return synset


def _sense(reader: Any, name: str, uri: str) -> Any | None:
    if match := _IMAGENET_ID.search(name):
        synset = reader.synset_from_pos_and_offset("n", int(match[1]))
        if synset is None and reader.get_version() != "3.0":
            raise DataError(
                f"knowledge.wordnet: {uri} has no {match[0]} (class {name}); it is WordNet {reader.get_version()}, and "
                "ImageNet's ids are those of WordNet 3.0",
                "give WordNet 3.0, or write senses in knowledge.wordnet_senses",
            )
        return synset
    tokens = name_tokens(name)
    # As written first: hyphens and apostrophes belong to WordNet's lemmas (`three-toed_sloth`).
    written = re.sub(r"[\s+_]+", "_", re.sub(r"^\d+\.", "", name)).strip("_")
    for lemma in dict.fromkeys([written, "_".join(tokens), *tokens[-1:]]):
        found = reader.synsets(lemma, "n") if lemma else []
        if found and found[0] is None:
            raise ValueError(f"nothing where index.noun has {lemma}")
        if found:
            return found[0]
    return None


def _entry(synset: Any) -> Entry:
    levels, met, level = [], {synset}, [synset]
    while level:
        above = {up for one in level for up in [*one.hypernyms(), *one.instance_hypernyms()]} - met
        # NLTK keeps pointers in sets, whose order changes from one process to the next.
        level = sorted(above, key=lambda one: one.offset())
        met.update(level)
        if level:
            levels.append(level)
    named = [list(dict.fromkeys(lemma for one in level for lemma in _lemmas(one))) for level in levels]
    ancestors = {_node(one) for level in levels for one in level}
    return Entry(_lemmas(synset), synset.definition(), named, Place(_node(synset), ancestors))


def _lemmas(synset: Any) -> list[str]:
    return [lemma.replace("_", " ") for lemma in synset.lemma_names()]


def _node(synset: Any) -> str:
    return f"n{synset.offset():08d}"

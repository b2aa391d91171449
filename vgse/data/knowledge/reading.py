"""From the section `knowledge` of the configuration to the sources it names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgse.config import KnowledgeConfig
from vgse.data.knowledge.source import Source, check_some_known
from vgse.data.knowledge.tables import ClassTable, read_class_table
from vgse.data.knowledge.taxonomy import Place, places_of_edges, places_of_texts, taxonomy_source
from vgse.data.knowledge.texts import Cell, Lexicon, column_source, text_sources
from vgse.data.knowledge.vectors import vectors_source
from vgse.data.knowledge.wordnet import Entry, read_wordnet
from vgse.data.words import Vocabulary
from vgse.errors import DataError
from vgse.storage import Storage


def read_sources(
    storage: Storage,
    knowledge: KnowledgeConfig,
    class_names: Sequence[str],
    words_CW: np.ndarray,
    vocabulary: Vocabulary | None,
) -> list[Source]:
    """Everything the classes are known by, in the order names, texts, WordNet, taxonomy, vectors.

    Args:
        storage: reads the files, local or in a bucket.
        knowledge: the section of the configuration.
        class_names: classes (C,).
        words_CW: raw word vectors of their names.
        vocabulary: the word vectors, for texts and WordNet.

    Raises:
        ConfigError, DataError: what the single sources raise; a file that knows none of the classes.
        ValueError: texts or WordNet without a vocabulary.
    """
    if vocabulary is None and (knowledge.texts or knowledge.wordnet):
        raise ValueError("texts and wordnet need the vocabulary")
    lexicon = Lexicon(vocabulary) if vocabulary is not None else None
    sources = []
    if knowledge.names:
        sources.append(Source("names", words_CW, np.ones(len(class_names), bool)))
    table: ClassTable | None = None
    if knowledge.texts and lexicon is not None:
        table = read_class_table(storage, knowledge.texts, "knowledge.texts")
        known_C = np.array([name in table.rows for name in class_names])
        check_some_known(known_C, class_names, list(table.rows), table.where)
        sources += text_sources(table, knowledge.text_fields, class_names, lexicon, knowledge.sif)
    entries: dict[str, Entry] = {}
    if knowledge.wordnet and lexicon is not None:
        entries = read_wordnet(storage, knowledge.wordnet, knowledge.wordnet_senses, class_names)
        sources += _wordnet_sources(entries, class_names, lexicon, knowledge)
    if knowledge.taxonomy:
        places = _places(storage, knowledge.taxonomy, table, entries, class_names)
        sources.append(taxonomy_source(places, class_names, f"knowledge.taxonomy: {knowledge.taxonomy}"))
    if knowledge.vectors:
        sources.append(vectors_source(storage, knowledge.vectors, class_names))
    _check_each_known([s for s in sources if knowledge.weights.get(s.name, 1.0) > 0] or sources, class_names)
    return sources


def _check_each_known(sources: Sequence[Source], class_names: Sequence[str]) -> None:
    known_C = np.any([source.known_C for source in sources], axis=0)
    lost = [name for name, known in zip(class_names, known_C, strict=True) if not known]
    if lost:
        raise DataError(
            f"knowledge: {', '.join(lost[:10])}{' ...' if len(lost) > 10 else ''} - {len(lost)} class(es) that none of "
            f"the sources ({', '.join(source.name for source in sources)}) knows",
            "add rows for them, or the word vectors of names (knowledge.names: true)",
        )


def _wordnet_sources(
    entries: dict[str, Entry], class_names: Sequence[str], lexicon: Lexicon, knowledge: KnowledgeConfig
) -> list[Source]:
    where = f"knowledge.wordnet: {knowledge.wordnet}"
    check_some_known(np.array([name in entries for name in class_names]), class_names, ["apple", "n07739125"], where)
    columns: dict[str, dict[str, Cell]] = {
        "wordnet_synonyms": {name: entry.synonyms for name, entry in entries.items()},
        "wordnet_gloss": {name: entry.gloss for name, entry in entries.items()},
        "wordnet_hypernyms": {name: entry.hypernyms for name, entry in entries.items()},
    }
    return [
        column_source(column, cells, class_names, lexicon, knowledge.sif, where) for column, cells in columns.items()
    ]


def _places(
    storage: Storage,
    taxonomy: str,
    table: ClassTable | None,
    entries: dict[str, Entry],
    class_names: Sequence[str],
) -> dict[str, Place]:
    if taxonomy == "texts" and table is not None:
        return places_of_texts(table, class_names)
    if taxonomy == "wordnet":
        return {name: entry.place for name, entry in entries.items()}
    return places_of_edges(storage, taxonomy, class_names)

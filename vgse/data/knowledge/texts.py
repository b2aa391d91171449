"""Texts of classes as vectors: a sentence or document, a list of names, or levels of names.

Every cell becomes a weighted mean of word vectors, so a whole column is one sparse matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from vgse.data.knowledge.source import Source
from vgse.data.knowledge.tables import ClassTable
from vgse.data.words import Vocabulary, name_tokens, spelling
from vgse.errors import ConfigError, DataError

DEFAULT_FIELDS = ("synonyms", "gloss", "description", "document", "hypernyms")
HYPERNYMS = "hypernyms"
_NAME_LISTS = {"synonyms", "names"}
_RESERVED = {"names", "taxonomy", "vectors", "wordnet_synonyms", "wordnet_gloss", "wordnet_hypernyms"}

Cell = str | list[str] | list[list[str]]
Weighted = dict[int, float]


class Lexicon:
    """The words met in texts, each looked up once; `vectors_LW` has one row per word found."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._row_of_token: dict[str, int] = {}
        self._row_of_word: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._row_of_word)

    def rows(self, text: str) -> np.ndarray:
        """Rows of the text's words in order, int32; -1 where the vocabulary has neither a word nor a case variant."""
        tokens = name_tokens(text)
        for token in tokens:
            if token not in self._row_of_token:
                word = spelling(token, self._vocabulary)
                # `The` and `the` are one word where the vocabulary has only one of them.
                row = -1 if word is None else self._row_of_word.setdefault(word, len(self._row_of_word))
                self._row_of_token[token] = row
        return np.array([self._row_of_token[token] for token in tokens], np.int32)

    @property
    def vectors_LW(self) -> np.ndarray:
        """Vectors of the words found so far, float64."""
        vectors = [np.asarray(self._vocabulary[word], np.float64) for word in self._row_of_word]
        return np.array(vectors).reshape(len(vectors), self._vocabulary.vector_size)


def text_sources(
    table: ClassTable, fields: Sequence[str], class_names: Sequence[str], lexicon: Lexicon, sif: float
) -> list[Source]:
    """One source per column of a table of texts.

    Args:
        table: the texts.
        fields: columns to use; none means those of `DEFAULT_FIELDS` that there are.
        class_names: classes (C,) in the order of the result.
        lexicon: where words are looked up.
        sif: a of the weights a / (a + p(word)), see `text_vectors`.

    Raises:
        ConfigError: a field named like another source.
        DataError: a field that the table does not have, a cell that is no text, or a column without a known word.
    """
    taken = sorted(_RESERVED & set(fields))
    if taken:
        raise ConfigError(f"knowledge.text_fields: another source is called {taken[0]}", "rename the column")
    for field in fields:
        if field not in table.columns:
            raise DataError(
                f"knowledge.text_fields: {field} is no column of the texts ({table.where})",
                f"it has {', '.join(table.columns) or 'none besides class_name'}",
            )
    chosen = list(dict.fromkeys(fields)) or [field for field in DEFAULT_FIELDS if field in table.columns]
    if not chosen:
        raise DataError(
            f"{table.where} has none of the columns {', '.join(DEFAULT_FIELDS)}",
            f"choose from {', '.join(table.columns) or '(no column)'} with knowledge.text_fields",
        )
    sources = []
    for field in chosen:
        cells = {name: read_cell(row.get(field), field, f"{table.where}, {name}") for name, row in table.rows.items()}
        sources.append(column_source(field, cells, class_names, lexicon, sif, table.where))
    return sources


def column_source(
    name: str, cells: dict[str, Cell], class_names: Sequence[str], lexicon: Lexicon, sif: float, where: str
) -> Source:
    """The source `name` from cells by class name; `DataError` where it has no known word for any of the classes."""
    vectors_CW, known_C = text_vectors(cells, class_names, lexicon, sif)
    if not known_C.any():
        raise DataError(
            f"{where}: {name} has no word of data.word_vectors for any of the classes",
            "leave it out of knowledge.text_fields, or give word vectors of the texts' language",
        )
    return Source(name, vectors_CW, known_C)


def text_vectors(
    cells: Mapping[str, Cell], class_names: Sequence[str], lexicon: Lexicon, sif: float
) -> tuple[np.ndarray, np.ndarray]:
    """One vector per class, a weighted mean of its known words' vectors.

    A text weighs word w by a / (a + p(w)) (SIF: Arora, Liang & Ma, ICLR 2017, eq. 3); the common component that they
    remove is dealt with by centring on the seen mean. The weights are divided by their sum: a text of many common
    words would otherwise be short before centring, hence lie near minus the mean after it. p(w) is counted in the
    column itself, since vocabulary files carry no counts and are not reliably ordered by frequency.
    A list of names is the mean over the names of the mean of their words. Levels of names, nearest first, weigh
    1 / (depth + 1).

    Args:
        cells: the column by class name; p(w) is counted in all of it, whether or not a class is asked for.
        class_names: the classes (C,); one without a cell is not known.
        lexicon: where words are looked up; unknown ones are skipped.
        sif: a; 0 weighs all words of a text alike.

    Returns:
        vectors_CW, zeros where no word is known, and known_C.
    """
    texts = {name: lexicon.rows(cell) for name, cell in cells.items() if isinstance(cell, str)}
    importance_L = _importance(list(texts.values()), lexicon, sif)
    weighted = [
        _text_mean(texts[name], importance_L) if name in texts else _cell_mean(cells.get(name, []), lexicon)
        for name in class_names
    ]
    starts = np.cumsum([0, *(len(rows) for rows, _ in weighted)])
    rows, values = (np.concatenate(part) for part in zip(*weighted, strict=True))
    vectors_LW = lexicon.vectors_LW
    means_CL = sparse.csr_array((values, rows, starts), shape=(len(weighted), len(vectors_LW)))
    return np.asarray(means_CL @ vectors_LW), np.diff(starts) > 0


def read_cell(value: Any, field: str, where: str) -> Cell:
    """A cell as text, names or levels of names; an empty one is the empty text.

    Text in a column of names (synonyms) is split at `;` and `,`; in hypernyms into levels at `>` and names at `;`. A
    flat list of hypernyms has one name per level.

    Raises:
        DataError: anything but text, a list of texts, or a list of lists of texts.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if field in _NAME_LISTS:
            return _names(re.split("[;,]", value))
        return [_names(level.split(";")) for level in value.split(">")] if field == HYPERNYMS else value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [[name] for name in value] if field == HYPERNYMS else value
    if isinstance(value, list) and all(_is_names(one) for one in value):
        return value
    raise DataError(f"{where}: {field} is {str(value)[:60]!r}", "give a text, a list of names, or a list of such lists")


def _importance(texts: Sequence[np.ndarray], lexicon: Lexicon, sif: float) -> np.ndarray:
    """a / (a + p(w)) by row of the lexicon; unknown words count in the total."""
    rows = np.concatenate([*texts, np.zeros(0, np.int32)])
    counts_L = np.bincount(rows[rows >= 0], minlength=len(lexicon))
    return sif / (sif + counts_L / max(len(rows), 1)) if sif > 0 else np.ones(len(counts_L))


def _text_mean(rows: np.ndarray, importance_L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = rows[rows >= 0]
    weights = importance_L[known]
    return known, weights / weights.sum()


def _cell_mean(cell: Cell, lexicon: Lexicon) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for depth, item in enumerate(cell):
        # A list of names has no depth: its items weigh the same.
        names, weight = ([item], 1.0) if isinstance(item, str) else (item, 1.0 / (depth + 1))
        parts.append((_mean([(_name_mean(lexicon.rows(name).tolist()), 1.0) for name in names]), weight))
    mean = _mean(parts)
    return np.array(list(mean), np.int32), np.array(list(mean.values()), np.float64)


def _name_mean(rows: Sequence[int]) -> Weighted:
    return _mean([({row: 1.0}, 1.0) for row in rows if row >= 0])


def _mean(parts: Sequence[tuple[Weighted, float]]) -> Weighted:
    """The weighted mean of means over words; parts without a known word do not count."""
    total = sum(weight for part, weight in parts if part)
    mean: Weighted = {}
    for part, weight in parts:
        for row, value in part.items():
            mean[row] = mean.get(row, 0.0) + value * weight / total
    return mean


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _names(parts: Iterable[str]) -> list[str]:
    return [part.strip() for part in parts if part.strip()]

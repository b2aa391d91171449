"""Word vectors of class names: read with gensim, multi-word names averaged, missing words named all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import yaml

from vgse.errors import DataError
from vgse.storage import Storage


class Vocabulary(Protocol):
    """What is asked of word vectors: membership, one vector by word, their length."""

    vector_size: int

    def __contains__(self, word: str) -> bool: ...

    def __getitem__(self, word: str) -> np.ndarray: ...


class _NpzVocabulary:
    def __init__(self, words: np.ndarray, vectors: np.ndarray) -> None:
        self._row = {str(word): i for i, word in enumerate(words)}
        self._vectors, self.vector_size = vectors, int(vectors.shape[1])

    def __contains__(self, word: str) -> bool:
        return word in self._row

    def __getitem__(self, word: str) -> np.ndarray:
        return self._vectors[self._row[word]]


def load_vocabulary(path: Path) -> Vocabulary:
    """Word vectors from a local file: word2vec .bin or .txt, GloVe .txt, fastText .vec, or .npz (`words`, `vectors`).

    Raises:
        DataError: the file is of no such format.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return _NpzVocabulary(arrays["words"], arrays["vectors"])
        from gensim.models import KeyedVectors

        if path.suffix == ".bin":
            return KeyedVectors.load_word2vec_format(str(path), binary=True)
        return KeyedVectors.load_word2vec_format(str(path), binary=False, no_header=not _has_header(path))
    except (ValueError, KeyError, EOFError, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"data.word_vectors: {path.name} cannot be read as word vectors ({type(error).__name__}: {error})",
            "give word2vec .bin or .txt, GloVe .txt, fastText .vec, or .npz with arrays `words` and `vectors`",
        ) from None


def read_aliases(storage: Storage, aliases: Mapping[str, str], uri: str | None) -> dict[str, str]:
    """`aliases`, with those of the YAML file at `uri` behind them.

    Raises:
        DataError: the file is no mapping of class names to words.
    """
    if uri is None:
        return dict(aliases)
    more = read_text_mapping(storage, uri, "data.aliases_file", "n01440764: tench")
    return {**more, **aliases}


def read_text_mapping(storage: Storage, uri: str, field: str, example: str) -> dict[str, str]:
    """A YAML file of class names and a text for each; `field` and `example` are for the error.

    Raises:
        DataError: the file is no such mapping.
    """
    try:
        found = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise DataError(f"{field}: {uri} is not valid YAML: {error}", "mend it at the line given") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise DataError(f"{field}: {uri} must map class names to texts", f"write e.g. `{example}`")
    return found


def name_tokens(class_name: str) -> list[str]:
    """The words of a class name: `lawn_mower`, `grizzly+bear` and `001.Black_footed_Albatross` as published."""
    return [token for token in re.split(r"[\W_]+", re.sub(r"^\d+\.", "", class_name)) if token]


def class_word_vectors(
    names: Sequence[str], vocabulary: Vocabulary, aliases: Mapping[str, str] | None = None
) -> np.ndarray:
    """One vector per class, the mean of its words' vectors.

    Args:
        names: class names (C,).
        vocabulary: the word vectors.
        aliases: words to look up instead of a class name.

    Returns:
        words_CW, float64, raw (neither centred nor normalised).

    Raises:
        DataError: names every class with a word that is not in the vocabulary.
    """
    aliases = aliases or {}
    found, missing = [], {}
    for name in names:
        tokens = name_tokens(aliases.get(name, name))
        spelled = [spelling(token, vocabulary) for token in tokens]
        if not tokens or None in spelled:
            missing[name] = [token for token, word in zip(tokens, spelled, strict=True) if word is None]
            continue
        found.append(np.mean([np.asarray(vocabulary[word], np.float64) for word in spelled if word], axis=0))
    if missing:
        said = "; ".join(f"{name}: {', '.join(words) or 'no word at all'}" for name, words in missing.items())
        raise DataError(
            f"data.word_vectors has no vector for {len(missing)} class name(s) - {said}",
            "give other words under data.aliases, e.g. {lawn_mower: mower}, or other word vectors",
        )
    return np.stack(found)


def check_aliases(aliases: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises `DataError` where `data.aliases` names a class that is in no split (a file may name more classes)."""
    unknown = sorted(set(aliases) - set(names))
    if unknown:
        raise DataError(f"data.aliases names classes that are in no split: {', '.join(unknown)}", "mend or remove them")


def prepare_words(words_CW: np.ndarray, seen_C: np.ndarray, form: Literal["centred", "l2", "raw"]) -> np.ndarray:
    """Word vectors as the relation and the word arms use them.

    Args:
        words_CW: raw word vectors.
        seen_C: which classes are seen; only their mean is subtracted, so unseen classes influence nothing.
        form: `centred` subtracts the seen mean and L2-normalises, `l2` only normalises, `raw` changes nothing.
    """
    if form == "raw":
        return words_CW
    shifted = words_CW - words_CW[seen_C].mean(axis=0) if form == "centred" else words_CW
    length = np.linalg.norm(shifted, axis=1, keepdims=True)
    return shifted / np.where(length > 0, length, 1.0)


def spelling(token: str, vocabulary: Vocabulary) -> str | None:
    """The word of the vocabulary for a token: as written, in lower case or capitalised; None where there is none."""
    return next((word for word in (token, token.lower(), token.capitalize()) if word in vocabulary), None)


def _has_header(path: Path) -> bool:
    """word2vec and fastText text files start with `count dimension`; GloVe's start with the first word."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return bool(re.fullmatch(r"\d+ \d+", lines.readline().strip()))

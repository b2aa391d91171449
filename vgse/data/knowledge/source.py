"""One source of knowledge about classes, and what is said about several of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vgse.errors import ConfigError, DataError

_NAMES_SHOWN = 10


@dataclass(frozen=True)
class Source:
    """One thing classes are known by.

    Attributes:
        name: names, taxonomy, vectors, a column of the texts, or wordnet_synonyms, wordnet_gloss, wordnet_hypernyms;
            the key of `knowledge.weights`.
        vectors_CD: float64, raw (neither centred nor normalised); rows of zeros where not known.
        known_C: which classes the source says something about.
    """

    name: str
    vectors_CD: np.ndarray
    known_C: np.ndarray


def check_weights(weights: Mapping[str, float], sources: Sequence[Source]) -> None:
    """Raises `ConfigError` for a weight of no source, a negative or infinite one, and where all weights are zero."""
    names = [source.name for source in sources]
    for name, weight in weights.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"knowledge.weights.{name}: there is no such source",
                f"did you mean {near[0]}?" if near else f"the sources of this run are {', '.join(names)}",
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"knowledge.weights.{name} is {weight}", "give a finite number, 0 or more")
    if not any(weights.get(name, 1.0) > 0 for name in names):
        raise ConfigError("knowledge.weights are all zero", "give at least one source a weight above 0")


def missing_report(sources: Sequence[Source], class_names: Sequence[str]) -> list[str]:
    """One sentence for each source that does not know every class."""
    said = []
    for source in sources:
        missing = [name for name, known in zip(class_names, source.known_C, strict=True) if not known]
        if missing:
            said.append(
                f"knowledge: {source.name} does not know {len(missing)} of {len(class_names)} classes "
                f"({_listed(missing)}); seen classes that the other sources call near stand in for it there"
            )
    return said


def check_some_known(known_C: np.ndarray, class_names: Sequence[str], theirs: Sequence[str], where: str) -> None:
    """Raises `DataError` where a file knows none of the classes, with examples of both sides' names.

    Args:
        known_C: which classes the file knows.
        class_names: the classes of this run.
        theirs: the names in the file.
        where: the setting and the file.
    """
    if not known_C.any():
        raise DataError(
            f"{where} knows none of the {len(class_names)} classes: it has names like "
            f"{', '.join(map(repr, theirs[:2])) or '(no name at all)'}, "
            f"the classes are called {', '.join(map(repr, class_names[:2]))}",
            "name the classes in the file exactly as in data.classes",
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""Classes by their ancestors: one coordinate per ancestor, weighted by how much it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np
from scipy import sparse

from vgse.data.knowledge.source import Source, check_some_known
from vgse.data.knowledge.tables import ClassTable, need_columns, read_csv
from vgse.data.knowledge.texts import HYPERNYMS, read_cell
from vgse.errors import DataError
from vgse.storage import Storage

MOST_COORDINATES = 300


@dataclass(frozen=True)
class Place:
    """Where a class stands: its own node, None where it has none, and all nodes above it."""

    node: str | None
    ancestors: AbstractSet[str]


def taxonomy_source(places: Mapping[str, Place], class_names: Sequence[str], where: str) -> Source:
    """The source `taxonomy`: coordinate a of a class is -log p(a) where a is above it (or is it), else 0.

    p(a), the share of the known classes at or below a, makes this the information content of Resnik (IJCAI 1995,
    "Using information content to evaluate semantic similarity in a taxonomy", section 2) with classes counted instead
    of words of a corpus. What is above all classes tells nothing and is left out; so is a class's own node unless
    another class is below it. More than 300 coordinates are reduced to their leading 300 singular directions.

    Args:
        places: where classes stand; a class that is missing is not known.
        class_names: classes (C,) in the order of the result.
        where: the setting and the file, for error messages.

    Raises:
        DataError: no class is known, or no ancestor tells any two of them apart.
    """
    known_C = np.array([name in places for name in class_names], bool)
    check_some_known(known_C, class_names, list(places), where)
    found = {row: places[name] for row, name in enumerate(class_names) if name in places}
    above = frozenset().union(*(place.ancestors for place in found.values()))
    nodes = [
        (row, node)
        for row, place in found.items()
        for node in sorted(place.ancestors | ({place.node} & above if place.node else set()))
    ]
    below = Counter(node for _, node in nodes)
    column = {node: number for number, node in enumerate(n for n in sorted(below) if below[n] < len(found))}
    if not column:
        raise DataError(
            f"{where} does not tell the classes apart: every ancestor is above all of them", "give a deeper taxonomy"
        )
    kept = [(row, column[node], -np.log(below[node] / len(found))) for row, node in nodes if node in column]
    rows, columns, values = zip(*kept, strict=True)
    content_CA = sparse.csr_array((values, (rows, columns)), shape=(len(class_names), len(column)))
    return Source("taxonomy", _reduced(content_CA), known_C)


def places_of_edges(storage: Storage, uri: str, class_names: Sequence[str]) -> dict[str, Place]:
    """Places of the classes that a CSV file with the columns child and parent has; several parents are allowed.

    Raises:
        DataError: a column is missing, a cell is empty, or the edges run in a circle (one is named); where none of
            the classes is in the file.
    """
    where = f"knowledge.taxonomy: {uri}"
    frame = read_csv(storage.read_bytes(uri), where, str)
    need_columns(where, list(frame.columns), ["child", "parent"])
    parents: dict[str, set[str]] = {}
    for number, (child, parent) in enumerate(zip(frame["child"], frame["parent"], strict=True), 1):
        if not (isinstance(child, str) and isinstance(parent, str) and child and parent):
            raise DataError(f"{where}, row {number}: child or parent is empty", "name both, or remove the row")
        parents.setdefault(child, set()).add(parent)
        parents.setdefault(parent, set())
    check_some_known(np.array([name in parents for name in class_names]), class_names, list(parents), where)
    above: dict[str, frozenset[str]] = {}
    try:
        # Parents come before their children, so that each node's ancestors are its parents and all above these.
        for node in TopologicalSorter(parents).static_order():
            above[node] = frozenset(parents[node]).union(*(above[parent] for parent in parents[node]))
    except CycleError as error:
        raise DataError(f"{where} runs in a circle: {' > '.join(error.args[1])}", "remove one of these edges") from None
    return {name: Place(name, above[name]) for name in class_names if name in above}


def places_of_texts(table: ClassTable, class_names: Sequence[str]) -> dict[str, Place]:
    """Places by the hypernyms of a table of texts; the names of one level, joined, are one ancestor.

    Raises:
        DataError: there is no column of hypernyms.
    """
    if HYPERNYMS not in table.columns:
        raise DataError(
            f"knowledge.taxonomy is texts, but {table.where} has no column {HYPERNYMS}",
            f"it has {', '.join(table.columns) or 'none besides class_name'}; give a CSV file of edges instead",
        )
    places = {}
    for name in class_names:
        cell = read_cell(table.rows.get(name, {}).get(HYPERNYMS), HYPERNYMS, f"{table.where}, {name}")
        levels = [level for level in cell if level]
        if levels:
            places[name] = Place(None, {"; ".join(level) for level in levels})
    return places


def _reduced(content_CA: sparse.csr_array) -> np.ndarray:
    if content_CA.shape[1] <= MOST_COORDINATES:
        return content_CA.toarray()
    # Loading it takes a while, and few runs have so many ancestors.
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(min(MOST_COORDINATES, content_CA.shape[0]), random_state=0).fit_transform(content_CA)

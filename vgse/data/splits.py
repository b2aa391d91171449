"""Class splits: which classes are seen, which stand in as unseen while choices are made, which are unseen."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from vgse.errors import ConfigError, DataError
from vgse.storage import Storage

_PARTS = ("train", "val", "unseen")


@dataclass(frozen=True)
class ClassSplit:
    """Class names by part. Choices take `train` as seen and `val` as pseudo-unseen; the final fit sees both."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def seen(self) -> tuple[str, ...]:
        """Seen classes of the final fit: train, then val."""
        return self.train + self.val

    @property
    def all(self) -> tuple[str, ...]:
        """Every class: train, val, unseen."""
        return self.train + self.val + self.unseen

    def redrawn(self, seed: int, number: int) -> ClassSplit:
        """Split number `number` at the same sizes, drawn from all classes; number 0 is this split itself."""
        if number == 0:
            return self
        names = sorted(self.all)
        order = np.random.default_rng([seed, number]).permutation(len(names))
        drawn = [names[i] for i in order]
        first, second = len(self.train), len(self.train) + len(self.val)
        return ClassSplit(
            tuple(sorted(drawn[:first])), tuple(sorted(drawn[first:second])), tuple(sorted(drawn[second:]))
        )

    def folds(self, count: int, seed: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """(seen, pseudo-unseen) classes of `count` folds of class-level cross-validation on the seen classes.

        The first fold is (train, val) as given. Each further one holds other classes out of `train`, disjoint from one
        another and as many as `val` has, or an even share of `train` where that is less.

        Raises:
            ConfigError: `train` has too few classes for so many folds.
        """
        if count == 1:
            return [(self.train, self.val)]
        size = min(len(self.val), len(self.train) // (count - 1))
        if size == 0 or len(self.train) < 3:
            raise ConfigError(
                f"evaluate.folds = {count} needs more train classes than the {len(self.train)} there are",
                f"take at most {len(self.train) + 1 if len(self.train) > 2 else 1} folds",
            )
        order = np.random.default_rng([seed, count]).permutation(len(self.train))
        folds = [(self.train, self.val)]
        for k in range(count - 1):
            held = {self.train[i] for i in order[k * size : (k + 1) * size]}
            folds.append((tuple(n for n in self.seen if n not in held), tuple(n for n in self.train if n in held)))
        return folds


def read_split(storage: Storage, uri: str) -> ClassSplit:
    """Reads the YAML lists `train`, `val` and `unseen`.

    Raises:
        DataError: not YAML, a list missing or empty, a class twice (also in two lists).
    """
    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        raise DataError(f"data.classes: {uri} is not valid YAML: {error}", "mend it at the line given") from None
    if not isinstance(values, dict) or not all(_is_list_of_names(values.get(part)) for part in _PARTS):
        raise DataError(
            f"data.classes: {uri} must hold the non-empty lists train, val and unseen of class names (in quotes where "
            "YAML would read a number, or yes/no)",
            "write e.g. `train: [bear, beaver]`, one list each",
        )
    split = ClassSplit(*(tuple(values[part]) for part in _PARTS))
    _check_once(split, uri)
    return split


def check_classes_have_images(split: ClassSplit, classes_with_images: Iterable[str]) -> None:
    """Raises `DataError` naming every class of the split for which there is no image, with the nearest right names."""
    known = sorted(set(classes_with_images))
    missing = sorted(set(split.all) - set(known))
    if missing:
        raise DataError(
            f"data.classes names {len(missing)} class(es) without any image: {_with_nearest(missing, known)}",
            "mend the names in data.classes, or add images of these classes to data.images",
        )


def check_seen_classes_train(splits: Iterable[ClassSplit], classes_with_training_images: Iterable[str]) -> None:
    """Raises `DataError` naming every class that is seen in one of the splits but has test images only."""
    bare = sorted({name for split in splits for name in split.seen} - set(classes_with_training_images))
    if bare:
        raise DataError(
            f"data.images holds no training image of {len(bare)} class(es) that are seen in some class split: "
            f"{', '.join(bare[:10])}",
            "add training images, or move the classes to `unseen` (and leave data.class_splits at 1)",
        )


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _check_once(split: ClassSplit, uri: str) -> None:
    twice = sorted(name for name, count in Counter(split.all).items() if count > 1)
    if twice:
        where = {name: [part for part in _PARTS for n in getattr(split, part) if n == name] for name in twice}
        said = "; ".join(f"{name} in {' and '.join(parts)}" for name, parts in list(where.items())[:10])
        raise DataError(
            f"data.classes: {uri} names {len(twice)} class(es) twice: {said}", "keep each class in one list"
        )


def _with_nearest(missing: Sequence[str], known: Sequence[str], most: int = 10) -> str:
    said = []
    for name in missing[:most]:
        near = difflib.get_close_matches(name, known, n=1)
        said.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return ", ".join(said) + (f" and {len(missing) - most} more" if len(missing) > most else "")

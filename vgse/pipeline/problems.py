"""Which zero-shot problems a run solves: class splits x seeds, each with its folds for choices and its final fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vgse.config import Config
from vgse.data.splits import ClassSplit


@dataclass(frozen=True)
class Problem:
    """One zero-shot problem: a class split under one seed, either as choices are made on it or as it is judged.

    `draw` is the seed's number, `fold` tells the choice problems of one class split apart.
    """

    split: int
    phase: Literal["choice", "final"]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    draw: int = 0
    fold: int = 0

    @property
    def name(self) -> str:
        """Unique within a run, e.g. `split-0-final`, `split-0-choice-2` or `split-0-seed-1-final`."""
        seed = f"-seed-{self.draw}" if self.draw else ""
        fold = f"-{self.fold}" if self.fold else ""
        return f"split-{self.split}{seed}-{self.phase}{fold}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Seen classes, then unseen ones: the row order of every class matrix of this problem."""
        return self.seen + self.unseen

    @property
    def seen_mask(self) -> np.ndarray:
        """Bool (C,), true for seen classes."""
        return np.arange(len(self.classes)) < len(self.seen)

    @property
    def main(self) -> bool:
        """Whether its results lie in the run directory itself: the final problem of the first split and seed."""
        return (self.split, self.draw, self.phase) == (0, 0, "final")


@dataclass(frozen=True)
class Round:
    """What is judged together: the final problem of one class split under one seed, and the folds it chooses on."""

    choices: tuple[Problem, ...]
    final: Problem

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The folds, then the final problem."""
        return (*self.choices, self.final)


def rounds(config: Config, splits: tuple[ClassSplit, ...]) -> Iterator[Round]:
    """The rounds of a run: every class split under every seed."""
    for number, split in enumerate(splits):
        folds = split.folds(config.evaluate.folds, config.seed)
        for draw in range(config.seeds):
            choices = tuple(
                Problem(number, "choice", seen, unseen, draw, fold) for fold, (seen, unseen) in enumerate(folds)
            )
            yield Round(choices, Problem(number, "final", split.seen, split.unseen, draw))

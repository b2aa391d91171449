"""Which hyperparameters win on one episode, and which win on the mean over several."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vgse.zsl.models import Candidates, Parameters, Queries, ZslModel
from vgse.zsl.prepared import Part, PreparedEpisode
from vgse.zsl.scores import TopScores, calibrate, figures, top_of_queries
from vgse.zsl.settings import ZslSettings


@dataclass(frozen=True)
class Scored:
    """One fitted candidate on one episode's test images.

    Attributes:
        parameters: its hyperparameters.
        queries: what it makes of a part's images.
        right_CK: what it compares them with.
        seen, unseen: top scores of `test_seen` and `test_unseen`.
    """

    parameters: Parameters
    queries: Queries
    right_CK: np.ndarray
    seen: TopScores
    unseen: TopScores


@dataclass(frozen=True)
class Tried:
    """What a grid reaches on one episode's test images.

    Attributes:
        T1: by hyperparameters (as `key` makes them), in the order they were tried.
        H: likewise, each with its own best calibration constant.
        constant: that constant.
        best_T1, best_H: the candidates with the best figure, first come first served.
    """

    T1: dict[Hashable, float]
    H: dict[Hashable, float]
    constant: dict[Hashable, float]
    best_T1: Scored
    best_H: Scored


@dataclass(frozen=True)
class Choice:
    """Hyperparameters as chosen, with the figure they reached there.

    Attributes:
        for_T1: those with the best T1.
        T1: that figure, the mean over folds.
        for_H: those with the best H.
        H: that figure, the mean over folds.
        calibration: the constant as it carries over: in standard deviations of training images' margins above their
            mean, the mean over folds.
    """

    for_T1: Parameters
    T1: float
    for_H: Parameters
    H: float
    calibration: float


def key(parameters: Parameters) -> Hashable:
    """Hyperparameters as something that can be looked up."""
    return tuple(sorted(parameters.items()))


def choose(
    model: ZslModel,
    embeddings: Sequence[np.ndarray],
    choices: Sequence[PreparedEpisode],
    settings: ZslSettings,
) -> Choice:
    """The hyperparameters with the best mean T1 and those with the best mean H over the choice episodes (folds).

    Args:
        model: whose grid is tried.
        embeddings: class embeddings (C, K) for each episode, scaled.
        choices: the episodes.
        settings: with the grid.
    """
    grid = model.grid(settings)
    tried = [try_grid(model, e_CK, choice, grid) for e_CK, choice in zip(embeddings, choices, strict=True)]
    mean_T1 = {at: float(np.mean([fold.T1[at] for fold in tried])) for at in tried[0].T1}
    mean_H = {at: float(np.mean([fold.H[at] for fold in tried])) for at in tried[0].H}
    # max takes the first of equals.
    best_T1, best_H = max(mean_T1, key=mean_T1.__getitem__), max(mean_H, key=mean_H.__getitem__)
    by_key = {key(parameters): parameters for parameters in grid}
    calibrations = []
    for fold, e_CK, choice in zip(tried, embeddings, choices, strict=True):
        # Most folds have the candidate at hand that wins on the mean; the others fit it once more.
        at_hand = key(fold.best_H.parameters) == best_H
        candidate = fold.best_H if at_hand else next(fitted(model, e_CK, choice, [by_key[best_H]]))
        calibrations.append(carried_constant(fold.constant[best_H], candidate, choice))
    return Choice(
        by_key[best_T1], mean_T1[best_T1], by_key[best_H], mean_H[best_H], float(np.mean(calibrations))
    )  # fmt: skip


def try_grid(
    model: ZslModel, embeddings_CK: np.ndarray, prepared: PreparedEpisode, grid: Sequence[Parameters]
) -> Tried:
    """T1 and H on the episode's test images for every element of the grid."""
    seen_labels, unseen_labels = prepared.episode.test_seen.labels_N, prepared.episode.test_unseen.labels_N
    T1: dict[Hashable, float] = {}
    H: dict[Hashable, float] = {}
    constants: dict[Hashable, float] = {}
    best_T1: Scored | None = None
    best_H: Scored | None = None
    top_T1 = top_H = -1.0
    for candidate in fitted(model, embeddings_CK, prepared, grid):
        constant = calibrate(candidate.seen, seen_labels, candidate.unseen, unseen_labels)
        reached = figures(candidate.seen, seen_labels, candidate.unseen, unseen_labels, constant)
        at = key(candidate.parameters)
        T1[at], H[at], constants[at] = reached.T1, reached.H, constant
        if top_T1 < reached.T1:
            top_T1, best_T1 = reached.T1, candidate
        if top_H < reached.H:
            top_H, best_H = reached.H, candidate
    assert best_T1 is not None
    assert best_H is not None
    return Tried(T1, H, constants, best_T1, best_H)


def fitted(
    model: ZslModel, embeddings_CK: np.ndarray, prepared: PreparedEpisode, grid: Sequence[Parameters]
) -> Iterator[Scored]:
    """Every element of the grid, fitted on the training images and scored on the test images."""
    for group in model.fit(prepared, embeddings_CK, grid):
        yield from _scored(group, prepared)


def training_margins(scored: Scored, prepared: PreparedEpisode) -> tuple[float, float]:
    """Mean and standard deviation of training images' margins: the scale on which a calibration constant carries over.

    A margin (best seen minus best unseen score) grows and shrinks with the number of classes, the ridge and the scale
    of the embeddings, so a constant in absolute terms means little in another fit. Training images, which every fit
    has, show where its margins lie and how far they spread, and need no test image. On CIFAR-100 (means over two
    class splits) the constant so carried lost 0.0 to 0.2 points of H against the best in hindsight; scaled by the
    deviation alone it lost 0.5 to 0.7, left as it was 1.6 to 6.5.
    """
    (top,) = _top("train", scored.queries, [scored.right_CK], prepared)
    return float(top.margins.mean()), float(top.margins.std())


def carried_constant(constant: float, scored: Scored, prepared: PreparedEpisode) -> float:
    """A calibration constant in the unit of `training_margins`."""
    middle, spread = training_margins(scored, prepared)
    return (constant - middle) / spread if spread > 0 else 0.0


def _scored(group: Candidates, prepared: PreparedEpisode) -> Iterator[Scored]:
    """Every model of a group on the test images."""
    rights = [np.asarray(right_CK, np.float32) for _, right_CK in group.rights]
    seen, unseen = (_top(part, group.queries, rights, prepared) for part in ("test_seen", "test_unseen"))
    for number, (parameters, _) in enumerate(group.rights):
        yield Scored(parameters, group.queries, rights[number], seen[number], unseen[number])


def _top(part: Part, queries: Queries, rights: list[np.ndarray], prepared: PreparedEpisode) -> list[TopScores]:
    """Top scores of a part's images for every right side; queries are made once."""
    found: list[list[TopScores]] = [[] for _ in rights]
    for queries_BK in queries(part):
        for batches, right_CK in zip(found, rights, strict=True):
            batches.append(top_of_queries(queries_BK, right_CK, prepared.episode.seen_C))
    return [TopScores.joined(batches) for batches in found]

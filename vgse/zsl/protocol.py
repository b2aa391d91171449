"""The honest protocol: every choice on the choice episode, one look at the final episode.

Hyperparameters are chosen with the train classes as seen and the val classes as pseudo-unseen; the final fit sees
train and val classes and is scored once. T1 has its own hyperparameters (best T1 on the choice episode); u, s and H
share theirs (best H there, each candidate with its own best calibration constant), because a fit for telling unseen
classes apart is seldom the fit for telling them from seen ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vgse.zsl.episode import Episode
from vgse.zsl.metrics import Figures
from vgse.zsl.models import Candidates, Parameters, ZslModel, zsl_models
from vgse.zsl.prepared import Part, PreparedEpisode, scaled_embeddings
from vgse.zsl.scores import TopScores, calibrate, figures, top_of_queries, zsl_accuracy
from vgse.zsl.settings import ZslSettings


@dataclass(frozen=True)
class ModelResult:
    """What one model makes of one arm.

    Attributes:
        figures: on the final episode.
        chosen: hyperparameters for `T1` and for `H` (the latter with `calibration`, in standard deviations of training
            images' margins above their mean), each with the figure it reached on the choice episode (`on_choice`).
    """

    figures: Figures
    chosen: dict[str, Parameters]


@dataclass(frozen=True)
class _Scored:
    """One candidate on one episode's test images."""

    parameters: Parameters
    left_FK: np.ndarray
    right_CK: np.ndarray
    seen: TopScores
    unseen: TopScores


def evaluate_arm(
    embeddings_choice_CK: np.ndarray,
    choice: Episode | PreparedEpisode,
    embeddings_final_CK: np.ndarray,
    final: Episode | PreparedEpisode,
    settings: ZslSettings | None = None,
) -> dict[str, ModelResult]:
    """Judges one arm's class embeddings in every model of the settings.

    Args:
        embeddings_choice_CK: class embeddings for the classes of `choice`, made without its unseen classes' images.
        choice: train classes as seen, val classes as pseudo-unseen, and held-out training images as its test_seen.
        embeddings_final_CK: class embeddings for the classes of `final`; may have another width.
        final: train and val classes as seen; its test images meet nothing but the fitted final models.
        settings: of the evaluation. Prepare the episodes with the same settings when judging many arms.

    Returns:
        A `ModelResult` for each model's name.

    Raises:
        DataError: embeddings or features that cannot be used.
        ValueError: shapes that do not fit.
    """
    settings = settings or ZslSettings()
    prepared_choice, prepared_final = _prepared(choice, settings), _prepared(final, settings)
    scaled_choice = _scaled(embeddings_choice_CK, prepared_choice, settings)
    scaled_final = _scaled(embeddings_final_CK, prepared_final, settings)
    return {
        name: _evaluate_model(model, scaled_choice, prepared_choice, scaled_final, prepared_final, settings)
        for name, model in zsl_models(settings.models).items()
    }


def evaluate_arms(
    arms_choice: Mapping[str, np.ndarray],
    choice: Episode | PreparedEpisode,
    arms_final: Mapping[str, np.ndarray],
    final: Episode | PreparedEpisode,
    settings: ZslSettings | None = None,
    on_arm: Callable[[str], None] | None = None,
) -> dict[str, dict[str, ModelResult]]:
    """`evaluate_arm` for every arm that both mappings hold, the work on the images shared.

    Args:
        arms_choice, arms_final: class embeddings by arm, as `controls.build_arms` makes them for either episode.
        choice, final: the episodes.
        settings: of the evaluation.
        on_arm: called with the name of every finished arm.

    Raises:
        ValueError: the mappings hold different arms.
    """
    if set(arms_choice) != set(arms_final):
        raise ValueError(f"arms of choice and final differ: {sorted(set(arms_choice) ^ set(arms_final))}")
    settings = settings or ZslSettings()
    prepared_choice, prepared_final = _prepared(choice, settings), _prepared(final, settings)
    results = {}
    for arm in arms_final:
        results[arm] = evaluate_arm(arms_choice[arm], prepared_choice, arms_final[arm], prepared_final, settings)
        if on_arm is not None:
            on_arm(arm)
    return results


def _prepared(episode: Episode | PreparedEpisode, settings: ZslSettings) -> PreparedEpisode:
    return episode if isinstance(episode, PreparedEpisode) else PreparedEpisode(episode, settings)


def _scaled(embeddings_CK: np.ndarray, prepared: PreparedEpisode, settings: ZslSettings) -> np.ndarray:
    names = prepared.episode.class_names
    if embeddings_CK.ndim != 2 or len(embeddings_CK) != len(names):
        raise ValueError(f"class embeddings {embeddings_CK.shape} do not fit {len(names)} classes")
    return scaled_embeddings(embeddings_CK, prepared.episode.seen_C, settings.centre_embeddings)


def _evaluate_model(
    model: ZslModel,
    embeddings_choice_CK: np.ndarray,
    choice: PreparedEpisode,
    embeddings_final_CK: np.ndarray,
    final: PreparedEpisode,
    settings: ZslSettings,
) -> ModelResult:
    for_T1, for_H, calibration = choose(model, embeddings_choice_CK, choice, settings)
    # Equal hyperparameters are fitted once; at most two fits meet the test images.
    wanted = [_only_parameters(model, settings, chosen) for chosen in (for_T1, for_H)]
    grid = wanted if wanted[0] != wanted[1] else wanted[:1]
    scored = [s for group in model.fit(final, embeddings_final_CK, grid) for s in _scored(group, final)]
    at_T1, at_H = (next(s for s in scored if s.parameters == parameters) for parameters in wanted)
    labels = final.episode.test_seen.labels_N, final.episode.test_unseen.labels_N
    middle, spread = training_margins(at_H, final)
    gzsl = figures(at_H.seen, labels[0], at_H.unseen, labels[1], middle + calibration * spread)
    T1 = zsl_accuracy(at_T1.unseen, labels[1])
    return ModelResult(Figures(T1, gzsl.u, gzsl.s, gzsl.H), {"T1": for_T1, "H": for_H})


def choose(
    model: ZslModel, embeddings_CK: np.ndarray, choice: PreparedEpisode, settings: ZslSettings
) -> tuple[Parameters, Parameters, float]:
    """The hyperparameters with the best T1 and those with the best H on the choice episode, first come first served.

    Returns:
        Parameters for T1, parameters for H (both with `on_choice`), and the calibration constant as it carries over: in
        standard deviations of training images' margins above their mean.
    """
    seen_labels, unseen_labels = choice.episode.test_seen.labels_N, choice.episode.test_unseen.labels_N
    best_T1: Parameters = {}
    best_H: tuple[_Scored, float] | None = None
    top_T1 = top_H = -1.0
    for group in model.fit(choice, embeddings_CK, model.grid(settings)):
        for candidate in _scored(group, choice):
            constant = calibrate(candidate.seen, seen_labels, candidate.unseen, unseen_labels)
            reached = figures(candidate.seen, seen_labels, candidate.unseen, unseen_labels, constant)
            accuracy, harmonic = reached.T1, reached.H
            if accuracy > top_T1:
                top_T1, best_T1 = accuracy, {**candidate.parameters, "on_choice": accuracy}
            if harmonic > top_H:
                top_H, best_H = harmonic, (candidate, constant)
    assert best_H is not None
    middle, spread = training_margins(best_H[0], choice)
    calibration = (best_H[1] - middle) / spread if spread > 0 else 0.0
    return best_T1, {**best_H[0].parameters, "calibration": calibration, "on_choice": top_H}, calibration


def training_margins(scored: _Scored, prepared: PreparedEpisode) -> tuple[float, float]:
    """Mean and standard deviation of training images' margins: the scale on which a calibration constant carries over.

    A margin (best seen minus best unseen score) grows and shrinks with the number of classes, the ridge and the scale
    of the embeddings, so a constant in absolute terms means little in another fit. Training images, which every fit
    has, show where its margins lie and how far they spread, and need no test image. On CIFAR-100 (means over two
    class splits) the constant so carried lost 0.0 to 0.2 points of H against the best in hindsight; scaled by the
    deviation alone it lost 0.5 to 0.7, left as it was 1.6 to 6.5.
    """
    (top,) = _top("train", scored.left_FK, [scored.right_CK], prepared)
    return float(top.margins.mean()), float(top.margins.std())


def _only_parameters(model: ZslModel, settings: ZslSettings, chosen: dict[str, Any]) -> Parameters:
    return {name: chosen[name] for name in model.grid(settings)[0]}


def _scored(group: Candidates, prepared: PreparedEpisode) -> Iterator[_Scored]:
    """Every model of a group on the test images."""
    left_FK = np.asarray(group.left_FK, np.float32)
    rights = [np.asarray(right_CK, np.float32) for _, right_CK in group.rights]
    seen, unseen = _top("test_seen", left_FK, rights, prepared), _top("test_unseen", left_FK, rights, prepared)
    for number, (parameters, _) in enumerate(group.rights):
        yield _Scored(parameters, left_FK, rights[number], seen[number], unseen[number])


def _top(part: Part, left_FK: np.ndarray, rights: list[np.ndarray], prepared: PreparedEpisode) -> list[TopScores]:
    """Top scores of a part's images for every right side; each image is multiplied with the left side once."""
    found: list[list[TopScores]] = [[] for _ in rights]
    for x_BF in prepared.mapped(part):
        queries_BK = x_BF @ left_FK
        for batches, right_CK in zip(found, rights, strict=True):
            batches.append(top_of_queries(queries_BK, right_CK, prepared.episode.seen_C))
    return [TopScores.joined(batches) for batches in found]

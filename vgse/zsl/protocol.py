"""The honest protocol: every choice on the choice episodes, one look at the final episode.

Hyperparameters are chosen with some seen classes as seen and others as pseudo-unseen: one choice episode (train
classes and val classes), or several (folds: class-level cross-validation, each class pseudo-unseen once). The final
fit sees all seen classes and is scored once. T1 has its own hyperparameters (best T1, the mean over folds); u, s and H
share theirs (best mean H, each candidate with each fold's own best calibration constant), because a fit for telling
unseen classes apart is seldom the fit for telling them from seen ones.

`evaluate_arm_as_published` is the field's usual practice instead: every choice on the test set itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vgse.zsl.choosing import Scored, carried_constant, choose, fitted, key, training_margins, try_grid
from vgse.zsl.episode import Episode
from vgse.zsl.metrics import Figures, accuracy_by_class, skewness
from vgse.zsl.models import Parameters, ZslModel, zsl_models
from vgse.zsl.prepared import PreparedEpisode, scaled_embeddings
from vgse.zsl.scores import figures, zsl_accuracy
from vgse.zsl.settings import ZslSettings


@dataclass(frozen=True)
class ModelResult:
    """What one model makes of one arm.

    Attributes:
        figures: on the final episode.
        chosen: hyperparameters for `T1` and for `H` (the latter with `calibration`, in standard deviations of training
            images' margins above their mean), each with the figure it reached where it was chosen: `on_choice` (the
            mean over the choice episodes), or `on_test` if it was chosen as published.
        per_class: the accuracies that the figures are means of, float64: `T1` and `u` (U,) of the unseen classes,
            `s` (S,) of the seen classes, each side in the order of the episode's class names.
        hubness: skewness of N_1, the number of times that each unseen class is predicted where only unseen classes are
            candidates (Radovanovic et al., "Hubs in space", JMLR 2010); 0 where all are predicted equally often.
    """

    figures: Figures
    chosen: dict[str, Parameters]
    per_class: dict[str, np.ndarray] = field(compare=False)
    hubness: float


def evaluate_arm(
    embeddings_choices: Sequence[np.ndarray],
    choices: Sequence[Episode | PreparedEpisode],
    embeddings_final_CK: np.ndarray,
    final: Episode | PreparedEpisode,
    settings: ZslSettings | None = None,
) -> dict[str, ModelResult]:
    """Judges one arm's class embeddings in every model of the settings.

    Args:
        embeddings_choices: for each choice episode, class embeddings (C, K) for its classes, made without its unseen
            classes' images; widths may differ.
        choices: the choice episodes: some seen classes as seen, others as pseudo-unseen, and held-out training images
            of the former as test_seen.
        embeddings_final_CK: class embeddings for the classes of `final`; may have another width.
        final: all seen classes as seen; its test images meet nothing but the fitted final models.
        settings: of the evaluation. Prepare the episodes with the same settings when judging many arms.

    Returns:
        A `ModelResult` for each model's name.

    Raises:
        DataError: embeddings or features that cannot be used.
        ValueError: shapes that do not fit, or no choice episode.
    """
    if not choices or len(embeddings_choices) != len(choices):
        raise ValueError(f"{len(embeddings_choices)} class embeddings for {len(choices)} choice episodes")
    settings = settings or ZslSettings()
    prepared = [_prepared(choice, settings) for choice in choices]
    scaled = [_scaled(e_CK, choice, settings) for e_CK, choice in zip(embeddings_choices, prepared, strict=True)]
    prepared_final = _prepared(final, settings)
    scaled_final = _scaled(embeddings_final_CK, prepared_final, settings)
    return {
        name: _evaluate_model(model, scaled, prepared, scaled_final, prepared_final, settings)
        for name, model in zsl_models(settings.models).items()
    }


def evaluate_arms(
    arms_choice: Sequence[Mapping[str, np.ndarray]],
    choices: Sequence[Episode | PreparedEpisode],
    arms_final: Mapping[str, np.ndarray],
    final: Episode | PreparedEpisode,
    settings: ZslSettings | None = None,
    on_arm: Callable[[str], None] | None = None,
) -> dict[str, dict[str, ModelResult]]:
    """`evaluate_arm` for every arm, the work on the images shared.

    Args:
        arms_choice: for each choice episode, class embeddings by arm, as `controls.build_arms` makes them.
        choices: the choice episodes.
        arms_final: class embeddings by arm for the final episode.
        final: the final episode.
        settings: of the evaluation.
        on_arm: called with the name of every finished arm.

    Raises:
        ValueError: the mappings hold different arms, or there are not as many as choice episodes.
    """
    for arms in arms_choice:
        if set(arms) != set(arms_final):
            raise ValueError(f"arms of choice and final differ: {sorted(set(arms) ^ set(arms_final))}")
    settings = settings or ZslSettings()
    prepared, prepared_final = [_prepared(choice, settings) for choice in choices], _prepared(final, settings)
    results = {}
    for arm, embeddings_final_CK in arms_final.items():
        embeddings = [arms[arm] for arms in arms_choice]
        results[arm] = evaluate_arm(embeddings, prepared, embeddings_final_CK, prepared_final, settings)
        if on_arm is not None:
            on_arm(arm)
    return results


def evaluate_arm_as_published(
    embeddings_final_CK: np.ndarray, final: Episode | PreparedEpisode, settings: ZslSettings | None = None
) -> dict[str, ModelResult]:
    """Judges one arm with every choice made on the test set, for comparison with published tables only.

    Hyperparameters, SJE's epochs (every one up to the most of the settings) and the calibration constant are those with
    the best figure on the final episode's test images, as released evaluation programs do. Such figures are upper
    bounds of what can be reached without looking.

    Args:
        embeddings_final_CK: class embeddings (C, K) for the classes of `final`.
        final: all seen classes as seen.
        settings: of the evaluation.

    Returns:
        A `ModelResult` for each model's name; `chosen` holds `on_test` in place of `on_choice`.

    Raises:
        DataError: embeddings or features that cannot be used.
        ValueError: shapes that do not fit.
    """
    settings = settings or ZslSettings()
    prepared = _prepared(final, settings)
    scaled_CK = _scaled(embeddings_final_CK, prepared, settings)
    every_epoch = tuple(range(1, max(settings.sje.epochs) + 1))
    grids = replace(settings, sje=replace(settings.sje, epochs=every_epoch))
    return {
        name: _as_published(model, scaled_CK, prepared, grids) for name, model in zsl_models(settings.models).items()
    }


def _prepared(episode: Episode | PreparedEpisode, settings: ZslSettings) -> PreparedEpisode:
    return episode if isinstance(episode, PreparedEpisode) else PreparedEpisode(episode, settings)


def _scaled(embeddings_CK: np.ndarray, prepared: PreparedEpisode, settings: ZslSettings) -> np.ndarray:
    names = prepared.episode.class_names
    if embeddings_CK.ndim != 2 or len(embeddings_CK) != len(names):
        raise ValueError(f"class embeddings {embeddings_CK.shape} do not fit {len(names)} classes")
    centre, match = settings.centre_embeddings, settings.match_lengths
    return scaled_embeddings(embeddings_CK, prepared.episode.seen_C, centre, match)


def _evaluate_model(
    model: ZslModel,
    embeddings_choices: Sequence[np.ndarray],
    choices: Sequence[PreparedEpisode],
    embeddings_final_CK: np.ndarray,
    final: PreparedEpisode,
    settings: ZslSettings,
) -> ModelResult:
    choice = choose(model, embeddings_choices, choices, settings)
    # Equal hyperparameters are fitted once; at most two fits meet the test images.
    wanted = [choice.for_T1, choice.for_H]
    grid = wanted if wanted[0] != wanted[1] else wanted[:1]
    scored = list(fitted(model, embeddings_final_CK, final, grid))
    at_T1, at_H = (next(s for s in scored if s.parameters == parameters) for parameters in wanted)
    middle, spread = training_margins(at_H, final)
    chosen = {
        "T1": {**choice.for_T1, "on_choice": choice.T1},
        "H": {**choice.for_H, "calibration": choice.calibration, "on_choice": choice.H},
    }
    return _result(at_T1, at_H, middle + choice.calibration * spread, final.episode, chosen)


def _as_published(
    model: ZslModel, embeddings_CK: np.ndarray, final: PreparedEpisode, settings: ZslSettings
) -> ModelResult:
    tried = try_grid(model, embeddings_CK, final, model.grid(settings))
    at_T1, at_H = key(tried.best_T1.parameters), key(tried.best_H.parameters)
    constant = tried.constant[at_H]
    calibration = carried_constant(constant, tried.best_H, final)
    chosen = {
        "T1": {**tried.best_T1.parameters, "on_test": tried.T1[at_T1]},
        "H": {**tried.best_H.parameters, "calibration": calibration, "on_test": tried.H[at_H]},
    }
    return _result(tried.best_T1, tried.best_H, constant, final.episode, chosen)


def _result(
    at_T1: Scored, at_H: Scored, constant: float, episode: Episode, chosen: dict[str, Parameters]
) -> ModelResult:
    """Figures of the final candidates, with the classes behind them."""
    seen_labels, unseen_labels = episode.test_seen.labels_N, episode.test_unseen.labels_N
    seen, unseen = np.flatnonzero(episode.seen_C), np.flatnonzero(~episode.seen_C)
    gzsl = figures(at_H.seen, seen_labels, at_H.unseen, unseen_labels, constant)
    T1 = zsl_accuracy(at_T1.unseen, unseen_labels)
    per_class = {
        "T1": accuracy_by_class(at_T1.unseen.best_unseen, unseen_labels, unseen),
        "u": accuracy_by_class(at_H.unseen.predicted(constant), unseen_labels, unseen),
        "s": accuracy_by_class(at_H.seen.predicted(constant), seen_labels, seen),
    }
    predictions_U = np.bincount(at_T1.unseen.best_unseen, minlength=len(episode.seen_C))[unseen]
    return ModelResult(Figures(T1, gzsl.u, gzsl.s, gzsl.H), chosen, per_class, skewness(predictions_U))

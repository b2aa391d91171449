"""The zero-shot models as the protocol sees them: a grid, and fitted candidates for any part of the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from vgse.zsl.eszsl import EmbeddingFactors
from vgse.zsl.prepared import Part, PreparedEpisode
from vgse.zsl.prototype import EmbeddingRidge, cosine_rights
from vgse.zsl.settings import ZslSettings

Parameters = dict[str, Any]
# What a fitted model makes of the images of a part: (B, K) float32, in chunks.
Queries = Callable[[Part], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Candidates:
    """Fitted models that share their work on the images. The score of image x for class c is query(x) right_c.

    Attributes:
        queries: of the images of a part.
        rights: for each setting of the hyperparameters, what all classes look like on that side (C, K).
    """

    queries: Queries
    rights: Sequence[tuple[Parameters, np.ndarray]]

    @classmethod
    def bilinear(
        cls, prepared: PreparedEpisode, left_FK: np.ndarray, rights: Sequence[tuple[Parameters, np.ndarray]]
    ) -> Candidates:
        """Candidates whose queries are mapped features multiplied with `left_FK`."""
        return cls(partial(_multiplied, prepared, np.asarray(left_FK, np.float32)), rights)


def _multiplied(prepared: PreparedEpisode, left_FK: np.ndarray, part: Part) -> Iterator[np.ndarray]:
    return (x_BF @ left_FK for x_BF in prepared.mapped(part))


class ZslModel(Protocol):
    """A zero-shot model with a bilinear score."""

    def grid(self, settings: ZslSettings) -> list[Parameters]:
        """Every setting of the hyperparameters that is tried."""
        ...

    def fit(
        self, prepared: PreparedEpisode, embeddings_CK: np.ndarray, grid: Sequence[Parameters]
    ) -> Iterator[Candidates]:
        """Models for every element of `grid`, fitted on the training images and the seen classes' embeddings."""
        ...


class Eszsl:
    """ESZSL by accumulated statistics (see `eszsl`)."""

    def grid(self, settings: ZslSettings) -> list[Parameters]:
        """All pairs of gamma and lambda, in the relative units of `ridge_classifiers` and `EmbeddingFactors`."""
        return [{"gamma": gamma, "lambda": lambda_} for gamma in settings.gammas for lambda_ in settings.lambdas]

    def fit(
        self, prepared: PreparedEpisode, embeddings_CK: np.ndarray, grid: Sequence[Parameters]
    ) -> Iterator[Candidates]:
        """One group for each gamma."""
        factors = EmbeddingFactors(embeddings_CK[prepared.episode.seen_C])
        for gamma in dict.fromkeys(parameters["gamma"] for parameters in grid):
            here = [parameters for parameters in grid if parameters["gamma"] == gamma]
            rights = [(parameters, embeddings_CK @ factors.right(parameters["lambda"])) for parameters in here]
            yield Candidates(partial(prepared.class_queries, gamma, factors.left_SR), rights)


class Sje:
    """SJE on whitened principal components (see `sje`)."""

    def grid(self, settings: ZslSettings) -> list[Parameters]:
        """All combinations of learning rate, weight decay and epochs."""
        return [
            {"learning_rate": rate, "weight_decay": decay, "epochs": epochs}
            for rate in settings.sje.learning_rates
            for decay in settings.sje.weight_decays
            for epochs in settings.sje.epochs
        ]

    def fit(
        self, prepared: PreparedEpisode, embeddings_CK: np.ndarray, grid: Sequence[Parameters]
    ) -> Iterator[Candidates]:
        """One training run for each learning rate and weight decay; it passes through all numbers of epochs."""
        from vgse.zsl.sje import train_sje

        episode, settings = prepared.episode, prepared.settings
        for rate, decay in dict.fromkeys((p["learning_rate"], p["weight_decay"]) for p in grid):
            wanted = {p["epochs"]: p for p in grid if (p["learning_rate"], p["weight_decay"]) == (rate, decay)}
            for epochs, v_PK in train_sje(
                prepared.whitened_train_NP,
                episode.seen_positions(episode.train.labels_N),
                embeddings_CK[episode.seen_C],
                learning_rate=rate,
                weight_decay=decay,
                epochs=sorted(wanted),
                batch=settings.sje.batch,
                seed=settings.seed,
            ):
                left_FK = prepared.whitening_FP @ v_PK
                yield Candidates.bilinear(prepared, left_FK, [(wanted[epochs], embeddings_CK)])


class Prototype:
    """The whitened-prototype classifier (see `prototype`)."""

    def grid(self, settings: ZslSettings) -> list[Parameters]:
        """All pairs of shrinkage (of the whitening) and ridge (of the regression)."""
        return [
            {"shrinkage": shrinkage, "ridge": ridge}
            for shrinkage in settings.prototype.shrinkages
            for ridge in settings.prototype.ridges
        ]

    def fit(
        self, prepared: PreparedEpisode, embeddings_CK: np.ndarray, grid: Sequence[Parameters]
    ) -> Iterator[Candidates]:
        """One group for each shrinkage; queries do not depend on the embeddings and serve every arm."""
        regression = EmbeddingRidge(embeddings_CK, prepared.episode.seen_C)
        for shrinkage in dict.fromkeys(parameters["shrinkage"] for parameters in grid):
            prototypes_SR = prepared.whitened(shrinkage)[1]
            here = [parameters for parameters in grid if parameters["shrinkage"] == shrinkage]
            rights = [(p, cosine_rights(regression, prototypes_SR, p["ridge"])) for p in here]
            yield Candidates(partial(prepared.unit_queries, shrinkage), rights)


def zsl_models(names: Sequence[str]) -> dict[str, ZslModel]:
    """The models of these names, in this order."""
    known: dict[str, ZslModel] = {"eszsl": Eszsl(), "sje": Sje(), "prototype": Prototype()}
    return {name: known[name] for name in names}

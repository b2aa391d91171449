"""The zero-shot models as the protocol sees them: a grid, and fitted candidates for any part of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vgse.zsl.eszsl import EszslFactors
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.settings import ZslSettings

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Candidates:
    """Fitted models that share their work on the images. The score of image x for class c is x left right_c.

    Attributes:
        left_FK: what mapped image features are multiplied with.
        rights: for each setting of the hyperparameters, what all classes look like on that side (C, K).
    """

    left_FK: np.ndarray
    rights: Sequence[tuple[Parameters, np.ndarray]]


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
        """All pairs of gamma and lambda, in the relative units of `EszslFactors`."""
        return [{"gamma": gamma, "lambda": lambda_} for gamma in settings.gammas for lambda_ in settings.lambdas]

    def fit(
        self, prepared: PreparedEpisode, embeddings_CK: np.ndarray, grid: Sequence[Parameters]
    ) -> Iterator[Candidates]:
        """One group for each gamma."""
        factors = EszslFactors(prepared.spectrum, embeddings_CK[prepared.episode.seen_C])
        for gamma in dict.fromkeys(parameters["gamma"] for parameters in grid):
            here = [parameters for parameters in grid if parameters["gamma"] == gamma]
            rights = [(parameters, embeddings_CK @ factors.right(parameters["lambda"])) for parameters in here]
            yield Candidates(factors.left(gamma), rights)


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
                yield Candidates(prepared.whitening_FP @ v_PK, [(wanted[epochs], embeddings_CK)])


def zsl_models(names: Sequence[str]) -> dict[str, ZslModel]:
    """The models of these names, in this order."""
    known: dict[str, ZslModel] = {"eszsl": Eszsl(), "sje": Sje()}
    return {name: known[name] for name in names}

"""The arms that stand beside anyone's class embeddings on a published benchmark."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import sparse

from vgse.data.words import prepare_words
from vgse.relation import relate
from vgse.zsl.benchmark_episodes import BenchmarkEpisode
from vgse.zsl.controls import WORD_ARMS, build_arms
from vgse.zsl.prepared import PreparedEpisode

_ALPHA, _RIDGE = 0.0, 0.5
RELATION = {"method": "simplex", "alpha": _ALPHA, "ridge": _RIDGE, "words": "centred"}
"""How controls are carried to unseen classes, as `vgse run` does by default."""

_MOST_ORACLE_DIMENSIONS = 512


def benchmark_arms(
    problem: BenchmarkEpisode,
    prepared: PreparedEpisode,
    files: Mapping[str, np.ndarray],
    words_CW: np.ndarray | None,
    seed: int,
    random_draws: int,
) -> dict[str, np.ndarray]:
    """Class embeddings (C, ...) of every arm for the classes of one episode.

    Args:
        problem: the episode with its classes.
        prepared: the same episode, for the oracle.
        files: the embeddings to be judged by arm, for all classes of the benchmark; the first has the controls made
            for it: as wide, and carried by the relation on `words_CW` or else on these embeddings.
        words_CW: raw word vectors of all classes of the benchmark, or None: no word arms.
        seed: of random and permuted.
        random_draws: how often random is drawn.

    Returns:
        The files, words_raw, words_l2, words_centred, one_hot, random (random-2, ...), permuted, oracle.
    """
    seen_C = problem.episode.seen_C
    judged = {arm: embeddings[problem.classes] for arm, embeddings in files.items()}
    first_CK = next(iter(judged.values()))
    known_CD = first_CK if words_CW is None else words_CW[problem.classes]
    controls = build_arms(
        first_CK[seen_C], carried_by(known_CD, seen_C), known_CD, seen_C, seed=seed, random_draws=random_draws
    )
    # What `build_arms` makes of a method's own embeddings has no place here: files bring unseen classes along.
    without = {"vgse"} if words_CW is not None else {"vgse", *WORD_ARMS}
    kept = {arm: embeddings for arm, embeddings in controls.items() if arm not in without}
    return {**judged, **kept, "oracle": oracle(prepared)}


def carried_by(known_CD: np.ndarray, seen_C: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """The relation r (U, S) solved on what classes are known by, centred on the seen mean and L2-normalised."""
    vectors_CD = prepare_words(np.asarray(known_CD, np.float64), seen_C, "centred")
    return relate(vectors_CD[~seen_C], vectors_CD[seen_C], alpha=_ALPHA, ridge=_RIDGE).r_US


def oracle(prepared: PreparedEpisode) -> np.ndarray:
    """Image prototypes (C, <= 512) as class embeddings: out of reach, since unseen classes bring their test images.

    A class's prototype is the mean of its images' mapped features, for seen classes of the training images; all are
    projected on the leading principal components of the seen prototypes.
    """
    prototypes_CF, seen_C = prepared.prototypes(), prepared.episode.seen_C
    seen_SF, unseen_UF = prototypes_CF[seen_C], prototypes_CF[~seen_C]
    mean_F = seen_SF.mean(axis=0)
    _, size, axes = np.linalg.svd(seen_SF - mean_F, full_matrices=False)
    axes = axes[: min(_MOST_ORACLE_DIMENSIONS, int((size > 1e-9 * size[0]).sum()))]
    out_CK = np.empty((len(seen_C), len(axes)), np.float32)
    out_CK[seen_C], out_CK[~seen_C] = (seen_SF - mean_F) @ axes.T, (unseen_UF - mean_F) @ axes.T
    return out_CK

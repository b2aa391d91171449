"""The arms that stand beside VGSE, so that its figures can be believed: what words, chance and an oracle reach.

Everything but the word arms and the oracle is carried to unseen classes by the same relation r as VGSE.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse

# Beyond so many seen classes one_hot is left out: its embeddings are as wide as there are classes.
MOST_ONE_HOT = 5000
# The word vectors of the class names themselves, in three forms.
WORD_ARMS = ("words_raw", "words_l2", "words_centred")
ARMS = ("vgse", *WORD_ARMS, "texts", "one_hot", "random", "permuted", "oracle")


def build_arms(
    phi_SK: np.ndarray,
    r_US: np.ndarray | sparse.sparray | sparse.spmatrix,
    words_raw_CW: np.ndarray,
    seen_C: np.ndarray,
    oracle_UK: np.ndarray | None = None,
    seed: int = 0,
    fused_CD: np.ndarray | None = None,
    random_draws: int = 1,
) -> dict[str, np.ndarray]:
    """Class embeddings (C, ...) float32 of every arm, in the order of `ARMS`; further random ones stand after `random`.

    Args:
        phi_SK: VGSE's embeddings of the seen classes, in class order.
        r_US: the relation, a row per unseen class, dense or sparse.
        words_raw_CW: word vectors of all classes' names as read.
        seen_C: which classes are seen, bool.
        oracle_UK: embeddings of the unseen classes from their own images; without them there is no oracle arm.
        seed: of the random and the permuted arm.
        fused_CD: the knowledge that r was made from, where it is more than the names. Without it there is no texts arm.
        random_draws: how many random arms: random, random-2, random-3, ...

    Returns:
        vgse (phi and r phi), words_raw, words_l2, words_centred, texts (the fused knowledge as it is), one_hot (a class
        is its own coordinate; with at most `MOST_ONE_HOT` seen classes), random (Gaussian, as wide as VGSE), permuted
        (VGSE's seen rows under other seen classes' names), oracle.

    Raises:
        ValueError: shapes that do not fit.
    """
    seen, unseen = int(seen_C.sum()), int((~seen_C).sum())
    if len(phi_SK) != seen or r_US.shape != (unseen, seen) or len(words_raw_CW) != len(seen_C):
        raise ValueError(
            f"phi {phi_SK.shape}, r {r_US.shape} and words {words_raw_CW.shape} do not fit "
            f"{seen} seen and {unseen} unseen classes"
        )
    if oracle_UK is not None and oracle_UK.shape != (unseen, phi_SK.shape[1]):
        raise ValueError(f"oracle {oracle_UK.shape} does not fit {(unseen, phi_SK.shape[1])}")
    if fused_CD is not None and (fused_CD.ndim != 2 or len(fused_CD) != len(seen_C)):
        raise ValueError(f"fused knowledge {fused_CD.shape} does not fit {len(seen_C)} classes")
    if random_draws < 1:
        raise ValueError(f"random_draws must be at least 1, not {random_draws}")
    texts = {} if fused_CD is None else {"texts": np.asarray(fused_CD, np.float32)}
    arms = {
        "vgse": carried(phi_SK, r_US, seen_C),
        "words_raw": np.asarray(words_raw_CW, np.float32),
        "words_l2": word_embeddings(words_raw_CW, seen_C, "l2"),
        "words_centred": word_embeddings(words_raw_CW, seen_C, "centred"),
        **texts,
        **({"one_hot": carried(np.eye(seen, dtype=np.float32), r_US, seen_C)} if seen <= MOST_ONE_HOT else {}),
        **_random(phi_SK.shape, r_US, seen_C, seed, random_draws),
        "permuted": carried(_permuted(phi_SK, seed), r_US, seen_C),
    }
    if oracle_UK is not None:
        arms["oracle"] = _stacked(phi_SK, oracle_UK, seen_C)
    return arms


def carried(phi_SK: np.ndarray, r_US: np.ndarray | sparse.sparray | sparse.spmatrix, seen_C: np.ndarray) -> np.ndarray:
    """Embeddings (C, K) float32 with phi in the seen rows and r phi in the unseen ones."""
    return _stacked(phi_SK, r_US @ np.asarray(phi_SK, np.float64), seen_C)


def word_embeddings(words_raw_CW: np.ndarray, seen_C: np.ndarray, form: Literal["l2", "centred"]) -> np.ndarray:
    """Word vectors (C, W) float32 with rows of length 1, for `centred` after subtracting the mean of the seen ones."""
    words_CW = np.asarray(words_raw_CW, np.float64)
    if form == "centred":
        words_CW = words_CW - words_CW[seen_C].mean(axis=0)
    length_C = np.linalg.norm(words_CW, axis=1, keepdims=True)
    return (words_CW / np.where(length_C > 0, length_C, 1.0)).astype(np.float32)


def _random(
    shape: tuple[int, ...],
    r_US: np.ndarray | sparse.sparray | sparse.spmatrix,
    seen_C: np.ndarray,
    seed: int,
    draws: int,
) -> dict[str, np.ndarray]:
    # All draws come from one stream, so the first does not depend on how many there are.
    stream = np.random.default_rng([seed, 0])
    names = ["random", *(f"random-{number}" for number in range(2, draws + 1))]
    return {name: carried(stream.standard_normal(shape), r_US, seen_C) for name in names}


def _permuted(phi_SK: np.ndarray, seed: int) -> np.ndarray:
    # One cycle through all classes in a random order: no class keeps its own row.
    order = np.random.default_rng([seed, 1]).permutation(len(phi_SK))
    out = np.empty_like(phi_SK)
    out[order] = phi_SK[np.roll(order, 1)]
    return out


def _stacked(phi_SK: np.ndarray, phi_UK: np.ndarray, seen_C: np.ndarray) -> np.ndarray:
    out_CK = np.empty((len(seen_C), phi_SK.shape[1]), np.float32)
    out_CK[seen_C], out_CK[~seen_C] = phi_SK, phi_UK
    return out_CK

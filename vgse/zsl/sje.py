"""SJE: a bilinear score x^T V e trained by softmax cross-entropy over the seen classes.

The score is that of Akata et al., "Evaluation of output embeddings for fine-grained image classification" (CVPR 2015);
softmax cross-entropy takes the place of its ranking loss, as in later work. V starts at zero and the problem is convex
in V, so the seed decides only the order of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional


def train_sje(
    features_NP: np.ndarray,
    labels_N: np.ndarray,
    embeddings_SK: np.ndarray,
    *,
    learning_rate: float,
    weight_decay: float,
    epochs: Sequence[int],
    batch: int = 256,
    seed: int = 0,
) -> Iterator[tuple[int, np.ndarray]]:
    """Trains by minibatch AdamW at a constant rate and yields V after each number of epochs asked for.

    What is yielded is the mean of V over the steps of the last epoch, which takes the noise of the steps out.

    Args:
        features_NP: training features float32, rows of about length 1.
        labels_N: rows of `embeddings_SK`.
        embeddings_SK: class embeddings of the seen classes, rows of about length 1.
        learning_rate, weight_decay: of AdamW.
        epochs: numbers of passes over the images after which V is wanted.
        batch: images per step.
        seed: of the order of images.

    Returns:
        Pairs of epochs and V (P, K) float64, in ascending order of epochs.

    Raises:
        ValueError: shapes that do not fit.
    """
    if len(features_NP) != len(labels_N) or len(labels_N) == 0 or labels_N.max() >= len(embeddings_SK):
        raise ValueError(
            f"features {features_NP.shape}, labels {labels_N.shape} and embeddings {embeddings_SK.shape} do not fit"
        )
    x_NP = torch.from_numpy(np.ascontiguousarray(features_NP, np.float32))
    y_N = torch.from_numpy(np.asarray(labels_N, np.int64))
    e_KS = torch.from_numpy(np.ascontiguousarray(np.asarray(embeddings_SK, np.float32).T))
    v_PK = torch.zeros(x_NP.shape[1], e_KS.shape[0], requires_grad=True)
    optimiser = torch.optim.AdamW([v_PK], lr=learning_rate, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(1, max(epochs) + 1):
        batches = torch.randperm(len(x_NP), generator=order).split(batch)
        mean_PK = torch.zeros_like(v_PK, requires_grad=False)
        for rows in batches:
            # multi_dot takes the cheaper of the two orders, which depends on K and S.
            logits_BS = torch.linalg.multi_dot([x_NP[rows], v_PK, e_KS])
            loss = functional.cross_entropy(logits_BS, y_N[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            mean_PK += v_PK.detach() / len(batches)
        if epoch in epochs:
            yield epoch, mean_PK.double().numpy()

"""Class embeddings: each image weighs the same, and the order of adding does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from vgse.clustering.embedding import ClassEmbeddingSums

N, T, K, S = 50, 4, 6, 5


def _case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random((N, T, K)).astype(np.float32)
    return a / a.sum(-1, keepdims=True), np.concatenate([np.arange(S), rng.integers(0, S, N - S)])


def test_phi_is_the_mean_over_images_of_the_mean_over_patches():
    a, labels = _case()
    sums = ClassEmbeddingSums(S, K)
    sums.add(a, labels)
    phi, counts = sums.result()
    for y in range(S):
        images = [a[n].astype(np.float64).mean(axis=0) for n in range(N) if labels[n] == y]
        np.testing.assert_allclose(phi[y], sum(images) / len(images), rtol=1e-14)
        assert counts[y] == len(images)
    np.testing.assert_allclose(phi.sum(axis=1), 1, rtol=1e-6)


def test_parts_in_any_order_give_the_same():
    a, labels = _case()
    whole = ClassEmbeddingSums(S, K)
    whole.add(a, labels)
    order = np.random.default_rng(1).permutation(N)
    merged = ClassEmbeddingSums(S, K)
    for rows in np.array_split(order, 7):
        part = ClassEmbeddingSums(S, K)
        part.add(a[rows].astype(np.float64).mean(axis=1), labels[rows])
        merged.merge(part)
    np.testing.assert_allclose(merged.result()[0], whole.result()[0], rtol=1e-12)
    np.testing.assert_array_equal(merged.counts_S, whole.counts_S)


def test_what_cannot_be_averaged_is_refused():
    a, labels = _case()
    with pytest.raises(ValueError, match="no images for 5 classes"):
        ClassEmbeddingSums(S, K).result()
    with pytest.raises(ValueError, match="class indices"):
        ClassEmbeddingSums(S, K).add(a, labels + 1)
    with pytest.raises(ValueError, match="do not fit"):
        ClassEmbeddingSums(S, K + 1).add(a, labels)
    a[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        ClassEmbeddingSums(S, K).add(a, labels)

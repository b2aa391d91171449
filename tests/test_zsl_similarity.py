"""The correlation of class similarity with image-prototype similarity."""

import numpy as np
import pytest

from vgse.zsl.similarity import similarity_correlation

RNG = np.random.default_rng(0)
PROTOTYPES = RNG.standard_normal((30, 8))


def test_a_rotation_shift_and_scale_of_the_prototypes_agrees_wholly():
    rotation, _ = np.linalg.qr(RNG.standard_normal((8, 8)))
    assert similarity_correlation(3 * PROTOTYPES @ rotation + 5, PROTOTYPES) == pytest.approx(1.0)


def test_it_is_pearson_over_distinct_pairs():
    embeddings = PROTOTYPES[:, :4] + RNG.standard_normal((30, 4))

    def cosines(matrix):
        matrix = matrix - matrix.mean(axis=0)
        return [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(matrix) for b in matrix[i + 1 :]]

    expected = np.corrcoef(cosines(embeddings), cosines(PROTOTYPES))[0, 1]
    assert similarity_correlation(embeddings, PROTOTYPES) == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def test_unrelated_embeddings_do_not_correlate():
    many = RNG.standard_normal((400, 8))
    assert abs(similarity_correlation(RNG.standard_normal((400, 8)), many)) < 0.05


def test_one_hot_embeddings_say_nothing():
    assert not abs(similarity_correlation(np.eye(30), PROTOTYPES)) > 0.1


def test_classes_must_be_the_same():
    with pytest.raises(ValueError, match="pairs"):
        similarity_correlation(PROTOTYPES[:5], PROTOTYPES)

"""ESZSL against a direct dense solve, accumulation against one shot, and SJE on planted bilinear problems."""

import numpy as np
import pytest

from vgse.errors import DataError
from vgse.zsl.eszsl import EszslStatistics, solve_eszsl
from vgse.zsl.sje import train_sje
from vgse.zsl.whitening import principal_directions

N, F, S, K = 200, 12, 7, 5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, F)) + 0.5, rng.integers(0, S, N), rng.normal(size=(S, K))


def statistics_of(x_NF, labels_N):
    statistics = EszslStatistics(x_NF.shape[1], S)
    statistics.add(x_NF, labels_N)
    return statistics


def dense(x_NF, labels_N, e_SK, gamma, lambda_):
    """Equation 5 of the paper, written out."""
    y_NS = np.where(labels_N[:, None] == np.arange(S), 1.0, -1.0)
    gamma *= np.trace(x_NF.T @ x_NF) / F
    lambda_ *= np.trace(e_SK.T @ e_SK) / e_SK.shape[1]
    left = np.linalg.solve(x_NF.T @ x_NF + gamma * np.eye(F), x_NF.T @ y_NS @ e_SK)
    return left @ np.linalg.inv(e_SK.T @ e_SK + lambda_ * np.eye(e_SK.shape[1]))


def test_eszsl_is_the_papers_closed_form_on_the_whole_grid(data):
    x_NF, labels_N, e_SK = data
    found = dict(solve_eszsl(statistics_of(x_NF, labels_N), e_SK, (0.01, 3.0), (0.1, 1.0, 20.0)))
    assert len(found) == 6
    for (gamma, lambda_), v_FK in found.items():
        np.testing.assert_allclose(v_FK, dense(x_NF, labels_N, e_SK, gamma, lambda_), rtol=1e-8, atol=1e-11)


def test_more_embedding_dimensions_than_classes(data):
    x_NF, labels_N, _ = data
    e_SK = np.random.default_rng(1).normal(size=(S, 3 * S))
    (_, v_FK), = solve_eszsl(statistics_of(x_NF, labels_N), e_SK, (0.1,), (0.01,))  # fmt: skip
    np.testing.assert_allclose(v_FK, dense(x_NF, labels_N, e_SK, 0.1, 0.01), rtol=1e-7, atol=1e-10)


def test_principal_directions_whiten_towards_rows_of_length_one(data):
    x_NF, labels_N, _ = data
    x_NF = x_NF * np.linspace(0.1, 3.0, F)
    left_FP = principal_directions(statistics_of(x_NF, labels_N), 4, 0.0)
    z_NP = x_NF @ left_FP
    np.testing.assert_allclose(z_NP.T @ z_NP, np.eye(4) * N / 4, atol=1e-3)
    assert principal_directions(statistics_of(x_NF, labels_N), 99, 1.0).shape == (F, F)


def test_merged_parts_equal_one_shot(data):
    x_NF, labels_N, _ = data
    whole, merged = statistics_of(x_NF, labels_N), EszslStatistics(F, S)
    for rows in np.array_split(np.random.default_rng(2).permutation(N), 5):
        part = EszslStatistics(F, S)
        for row in np.array_split(rows, 3):
            part.add(x_NF[row].astype(np.float64), labels_N[row])
        merged.merge(part)
    np.testing.assert_allclose(merged.gram_FF, whole.gram_FF, rtol=1e-12)
    np.testing.assert_allclose(merged.sums_SF, whole.sums_SF, rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(merged.count_S, np.bincount(labels_N, minlength=S))
    assert merged.images == N


def test_centred_statistics_are_those_of_centred_features(data):
    x_NF, labels_N, _ = data
    centred, direct = statistics_of(x_NF, labels_N).centred(), statistics_of(x_NF - x_NF.mean(0), labels_N)
    np.testing.assert_allclose(centred.gram_FF, direct.gram_FF, atol=1e-10)
    np.testing.assert_allclose(centred.sums_SF, direct.sums_SF, atol=1e-10)


def test_statistics_refuse_what_they_cannot_use(data):
    x_NF, labels_N, e_SK = data
    statistics = statistics_of(x_NF, labels_N)
    broken = x_NF[:3].copy()
    broken[1, 4] = np.inf
    with pytest.raises(DataError, match="1 training images are not finite"):
        statistics.add(broken, labels_N[:3])
    with pytest.raises(ValueError, match="do not fit"):
        statistics.add(x_NF[:, :3], labels_N)
    with pytest.raises(ValueError, match="outside"):
        statistics.add(x_NF[:1], np.array([S]))
    with pytest.raises(ValueError, match="do not merge"):
        statistics.merge(EszslStatistics(F + 1, S))
    with pytest.raises(ValueError, match="positive"):
        next(solve_eszsl(statistics, e_SK, (0.0,), (1.0,)))
    with pytest.raises(ValueError, match="do not fit"):
        next(solve_eszsl(statistics, e_SK[:-1], (1.0,), (1.0,)))
    with pytest.raises(DataError, match="the same"):
        next(solve_eszsl(statistics_of(np.zeros((5, F)), labels_N[:5]), e_SK, (1.0,), (1.0,)))
    with pytest.raises(DataError, match="the same"):
        principal_directions(statistics_of(np.zeros((5, F)), labels_N[:5]), 3, 1.0)
    np.testing.assert_array_equal(statistics.gram_FF, statistics_of(x_NF, labels_N).gram_FF)


def planted(seed=0, images=3000, classes=12, features=16, width=6):
    """Images whose class is the best under a true bilinear score."""
    rng = np.random.default_rng(seed)
    e_SK = rng.normal(size=(classes, width))
    e_SK /= np.linalg.norm(e_SK, axis=1, keepdims=True)
    v_PK = rng.normal(size=(features, width))
    x_NP = rng.normal(size=(images, features)).astype(np.float32) / np.sqrt(features)
    return x_NP.astype(np.float32), (x_NP @ v_PK @ e_SK.T).argmax(1), e_SK


def test_sje_learns_a_planted_bilinear_score():
    x_NP, labels_N, e_SK = planted()
    runs = dict(
        train_sje(x_NP[:2000], labels_N[:2000], e_SK, learning_rate=0.1, weight_decay=0.0, epochs=(1, 20), batch=100)
    )
    accuracy = {e: float(((x_NP[2000:] @ v @ e_SK.T).argmax(1) == labels_N[2000:]).mean()) for e, v in runs.items()}
    assert list(runs) == [1, 20]
    assert accuracy[20] > 0.9
    assert accuracy[20] > accuracy[1]


def test_sje_is_repeatable_and_decay_shrinks_it():
    x_NP, labels_N, e_SK = planted(images=500)

    def run(seed, decay):
        return next(
            train_sje(x_NP, labels_N, e_SK, learning_rate=0.05, weight_decay=decay, epochs=(4,), batch=64, seed=seed)
        )[1]

    np.testing.assert_array_equal(run(0, 0.1), run(0, 0.1))
    assert not np.array_equal(run(0, 0.1), run(1, 0.1))
    assert np.linalg.norm(run(0, 5.0)) < 0.5 * np.linalg.norm(run(0, 0.0))


def test_sje_refuses_labels_without_an_embedding():
    x_NP, labels_N, e_SK = planted(images=50)
    with pytest.raises(ValueError, match="do not fit"):
        next(train_sje(x_NP, labels_N + 5, e_SK[:6], learning_rate=0.1, weight_decay=0.0, epochs=(1,)))

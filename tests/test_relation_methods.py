"""Kernel ridge regression and the mean of relations, against references that share no code."""

import numpy as np
import pytest

from vgse.errors import DataError
from vgse.relation import METHODS, PreparedRelation, RelationSettings, joined, kernel_ridge, relate, weighted_average

RNG = np.random.default_rng(0)
SEEN_SD, UNSEEN_UD = RNG.standard_normal((12, 7)), RNG.standard_normal((5, 7))
PHI_SK = RNG.standard_normal((12, 3))


@pytest.mark.parametrize("ridge", [0.01, 1.0, 30.0])
def test_kernel_ridge_predicts_what_scikit_learn_predicts(ridge):
    from sklearn.kernel_ridge import KernelRidge

    pairs = [((a - b) ** 2).sum() for i, a in enumerate(SEEN_SD) for b in SEEN_SD[:i]]
    model = KernelRidge(kernel="rbf", gamma=1 / np.mean(pairs), alpha=ridge)
    model.fit(SEEN_SD, PHI_SK - PHI_SK.mean(axis=0))
    expected_UK = model.predict(UNSEEN_UD) + PHI_SK.mean(axis=0)
    answer = kernel_ridge(UNSEEN_UD, SEEN_SD, ridge=ridge)
    np.testing.assert_allclose(answer.r_US @ PHI_SK, expected_UK, atol=1e-10)
    np.testing.assert_allclose(answer.r_US.sum(axis=1), 1.0, atol=1e-12)


def test_kernel_ridge_does_not_depend_on_units_or_origin():
    plain = kernel_ridge(UNSEEN_UD, SEEN_SD).r_US
    np.testing.assert_allclose(kernel_ridge(40 * UNSEEN_UD + 3, 40 * SEEN_SD + 3).r_US, plain, atol=1e-10)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_kernel_ridge_refuses_a_ridge_that_is_not_positive(bad):
    with pytest.raises(ValueError, match="ridge"):
        kernel_ridge(UNSEEN_UD, SEEN_SD, ridge=bad)


def test_kernel_ridge_names_the_row_that_is_not_finite():
    broken = SEEN_SD.copy()
    broken[4, 0] = np.nan
    with pytest.raises(DataError, match="row 4"):
        kernel_ridge(UNSEEN_UD, broken)


def test_one_seen_class_is_everything():
    assert kernel_ridge(UNSEEN_UD, SEEN_SD[:1]).r_US.tolist() == [[1.0]] * 5


@pytest.mark.parametrize("method", METHODS)
def test_a_method_by_name_is_the_method(method):
    settings = RelationSettings(method, -0.1, 0.3, 3, 2.0, 0.2)
    by_hand = {
        "simplex": lambda: relate(UNSEEN_UD, SEEN_SD, alpha=-0.1, ridge=0.3),
        "weighted_average": lambda: weighted_average(UNSEEN_UD, SEEN_SD, neighbours=3, eta=2.0),
        "kernel_ridge": lambda: kernel_ridge(UNSEEN_UD, SEEN_SD, ridge=0.2),
    }[method]()
    answer = PreparedRelation(SEEN_SD, settings)(UNSEEN_UD)
    np.testing.assert_allclose(answer.dense(), by_hand.dense(), atol=1e-12)
    assert answer.method_U == by_hand.method_U


def test_the_mean_is_the_mean_over_sources_and_methods():
    settings = RelationSettings("mean", 0.0, 0.5, 4, 5.0, 0.1)
    blocks = [slice(0, 3), slice(3, 7)]
    answer = PreparedRelation(SEEN_SD, settings, blocks)(UNSEEN_UD)
    expected = []
    for columns in (slice(0, 7), *blocks):
        seen, unseen = SEEN_SD[:, columns], UNSEEN_UD[:, columns]
        if columns != slice(0, 7):
            scale = np.sqrt((seen**2).sum(axis=1).mean())
            seen, unseen = seen / scale, unseen / scale
        expected += [
            relate(unseen, seen, alpha=0.0, ridge=0.5).dense(),
            weighted_average(unseen, seen, neighbours=4, eta=5.0).dense(),
            kernel_ridge(unseen, seen, ridge=0.1).dense(),
        ]
    np.testing.assert_allclose(answer.r_US, np.mean(expected, axis=0), atol=1e-12)
    np.testing.assert_allclose(answer.r_US.sum(axis=1), 1.0, atol=1e-9)
    residual = UNSEEN_UD - answer.r_US @ SEEN_SD
    np.testing.assert_allclose(answer.objective_U, 0.5 * (residual**2).sum(axis=1))


def test_one_source_is_not_counted_twice():
    settings = RelationSettings("mean")
    alone = PreparedRelation(SEEN_SD, settings)(UNSEEN_UD)
    named = PreparedRelation(SEEN_SD, settings, [slice(0, 7)])(UNSEEN_UD)
    np.testing.assert_array_equal(alone.r_US, named.r_US)
    assert alone.method_U == ["mean of 3"] * 5


@pytest.mark.parametrize("method", ["simplex", "mean"])
def test_chunks_join_to_the_whole(method):
    seen_SD = RNG.standard_normal((220, 6))  # enough for sparse answers
    prepared = PreparedRelation(seen_SD, RelationSettings(method))
    unseen_UD = RNG.standard_normal((10, 6))
    whole, parts = prepared(unseen_UD), joined([prepared(unseen_UD[:4]), prepared(unseen_UD[4:])])
    np.testing.assert_allclose(parts.dense(), whole.dense(), atol=1e-12)
    np.testing.assert_allclose(parts.objective_U, whole.objective_U)
    assert parts.method_U == whole.method_U

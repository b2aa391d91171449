"""Per-class accuracy, harmonic mean, calibrated stacking and top scores against hand-made cases and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vgse.errors import DataError
from vgse.zsl.features import FeatureMap
from vgse.zsl.metrics import Figures, accuracy_by_class, harmonic_mean, per_class_accuracy, skewness
from vgse.zsl.scores import TopScores, calibrate, figures, top_scores, zsl_accuracy


def test_each_class_weighs_the_same():
    labels = np.array([0, 0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 1, 0])
    assert per_class_accuracy(predicted, labels, [0, 1]) == pytest.approx((3 / 4 + 0) / 2)


def test_classes_without_images_and_images_of_other_classes_are_left_out():
    labels, predicted = np.array([0, 0, 5]), np.array([0, 1, 1])
    assert per_class_accuracy(predicted, labels, [0, 3]) == pytest.approx(0.5)


def test_no_image_of_the_classes_is_an_error():
    with pytest.raises(ValueError, match="no image"):
        per_class_accuracy(np.array([0]), np.array([0]), [1])
    with pytest.raises(ValueError, match="do not match"):
        per_class_accuracy(np.array([0, 1]), np.array([0]), [0])


def test_accuracy_by_class_is_in_the_order_asked_for_and_its_mean_is_the_figure():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 9, 200), rng.integers(0, 9, 200)
    classes = [8, 2, 5]
    found = accuracy_by_class(predicted, labels, classes)
    assert found.tolist() == [float((predicted[labels == c] == c).mean()) for c in classes]
    assert found.mean() == pytest.approx(per_class_accuracy(predicted, labels, classes), abs=1e-12)
    with_empty = accuracy_by_class(predicted, labels, [8, 11])
    assert with_empty[0] == found[0]
    assert np.isnan(with_empty[1])
    with pytest.raises(ValueError, match="do not match"):
        accuracy_by_class(predicted[1:], labels, classes)


@pytest.mark.parametrize("counts", [[1, 2, 3, 40], [0, 0, 0, 0, 9], [5, 4, 5, 1, 0, 7]])
def test_skewness_is_scipys(counts):
    assert skewness(np.array(counts)) == pytest.approx(stats.skew(counts), rel=1e-12)


def test_skewness_without_spread_is_zero():
    assert skewness(np.full(6, 3)) == 0.0


def test_harmonic_mean():
    assert harmonic_mean(0.2, 0.6) == pytest.approx(0.3)
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 0.9) == 0.0


def top(seen_scores, seen_classes, unseen_scores, unseen_classes):
    return TopScores(
        np.asarray(seen_scores, np.float32),
        np.asarray(seen_classes),
        np.asarray(unseen_scores, np.float32),
        np.asarray(unseen_classes),
    )


def test_figures_by_hand():
    # Seen classes 0 and 1, unseen 2 and 3. Margins of the seen images 2, 1; of the unseen ones 0.5, 3.
    seen_top, seen_labels = top([2, 1], [0, 1], [0, 0], [2, 2]), np.array([0, 1])
    unseen_top, unseen_labels = top([0.5, 3], [0, 0], [0, 0], [2, 3]), np.array([2, 3])
    assert zsl_accuracy(unseen_top, unseen_labels) == 1.0
    assert figures(seen_top, seen_labels, unseen_top, unseen_labels, 0.0) == Figures(1.0, 0.0, 1.0, 0.0)
    at_075 = figures(seen_top, seen_labels, unseen_top, unseen_labels, 0.75)
    assert (at_075.u, at_075.s, at_075.H) == pytest.approx((0.5, 1.0, 2 / 3))
    assert at_075.as_dict() == {"T1": 1.0, "u": 0.5, "s": 1.0, "H": pytest.approx(2 / 3)}
    assert calibrate(seen_top, seen_labels, unseen_top, unseen_labels) == pytest.approx(0.75)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 25), st.booleans())
def test_calibration_is_the_best_of_all_constants(seed, seen_images, unseen_images, ties):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, seen_images), rng.integers(3, 6, unseen_images)
    tops = []
    for count in (seen_images, unseen_images):
        scores = rng.normal(size=(2, count))
        tops.append(top(*(scores.round(0) if ties else scores)[:1], rng.integers(0, 3, count),
                        *(scores.round(0) if ties else scores)[1:], rng.integers(3, 6, count)))  # fmt: skip
    constant = calibrate(tops[0], labels[0], tops[1], labels[1])
    levels = np.unique(np.concatenate([t.margins for t in tops]))
    tried = np.concatenate([[levels[0] - 1], (levels[1:] + levels[:-1]) / 2, levels, [levels[-1] + 1]])
    best = max(figures(tops[0], labels[0], tops[1], labels[1], c).H for c in tried)
    reached = figures(tops[0], labels[0], tops[1], labels[1], constant)
    assert abs(reached.H - best) < 1e-12


def test_top_scores_against_the_full_matrix():
    rng = np.random.default_rng(0)
    x_NF, v_FK, e_CK = rng.normal(size=(57, 6)), rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    seen_C = np.arange(9) % 3 != 1
    full_NC = (x_NF - 0.3) @ v_FK @ e_CK.T
    found = top_scores(x_NF, v_FK, e_CK, seen_C, chunk=10, feature_map=FeatureMap(False, np.full(6, 0.3)))
    seen_NC, unseen_NC = np.where(seen_C, full_NC, -np.inf), np.where(seen_C, -np.inf, full_NC)
    np.testing.assert_array_equal(found.best_seen, seen_NC.argmax(1))
    np.testing.assert_array_equal(found.best_unseen, unseen_NC.argmax(1))
    np.testing.assert_allclose(found.best_seen_score, seen_NC.max(1), rtol=1e-5)
    np.testing.assert_allclose(found.best_unseen_score, unseen_NC.max(1), rtol=1e-5)
    constant = 1.7
    expected = np.where(seen_C, full_NC - constant, full_NC).argmax(1)
    np.testing.assert_array_equal(found.predicted(constant), expected)


def test_top_scores_in_blocks_of_one_row_are_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    x_NF, v_FK, e_CK, seen_C = rng.normal(size=(20, 5)), np.eye(5), rng.normal(size=(8, 5)), np.arange(8) < 5
    whole = top_scores(x_NF, v_FK, e_CK, seen_C)
    monkeypatch.setattr("vgse.zsl.scores._SCORES_AT_ONCE", 1)
    by_row = top_scores(x_NF, v_FK, e_CK, seen_C, chunk=7)
    np.testing.assert_array_equal(whole.best_seen, by_row.best_seen)
    np.testing.assert_allclose(whole.best_unseen_score, by_row.best_unseen_score, rtol=1e-4)


def test_scores_that_are_not_finite_are_refused():
    x_NF = np.ones((3, 2))
    x_NF[1, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        top_scores(x_NF, np.eye(2), np.eye(2), np.array([True, False]))

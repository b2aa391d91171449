"""What must hold for any word vectors (hypothesis)."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vgse.relation import relate

_ALPHAS = st.sampled_from([0.0, -0.005, -0.05, -0.4, -1.0])
_RIDGES = st.sampled_from([0.0, 0.5])
_SEEDS = st.integers(0, 2**32 - 1)
_FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
# r is unique to the tie ridge's relative 1e-8 times the condition of the words; these problems are well conditioned.
_CLOSE = 1e-6


def _words(seed: int, unseen: int, seen: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((unseen, width)), generator.standard_normal((seen, width))


@_FEW
@given(_SEEDS, st.integers(1, 40), st.integers(1, 12), _ALPHAS, _RIDGES)
def test_every_answer_is_feasible_and_certified(seed: int, seen: int, width: int, alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(seed, 3, seen, width)
    relations = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    r_US = relations.dense()
    assert r_US.min() >= alpha
    assert r_US.max() <= 1.0
    assert np.abs(r_US.sum(axis=1) - 1.0).max() <= 1e-12
    at_mean_U = 0.5 * ((words_UW - words_SW.mean(axis=0)) ** 2).sum(axis=1)
    assert (relations.gap_U <= 1e-9 * np.maximum(relations.objective_U, 1e-3 * at_mean_U) + 1e-14).all()


@_FEW
@given(_SEEDS, st.integers(2, 40), _ALPHAS, _RIDGES)
def test_permuting_seen_classes_permutes_r(seed: int, seen: int, alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(seed, 3, seen, 10)
    order = np.random.default_rng(seed + 1).permutation(seen)
    there = relate(words_UW, words_SW, alpha=alpha, ridge=ridge).dense()
    np.testing.assert_allclose(
        relate(words_UW, words_SW[order], alpha=alpha, ridge=ridge).dense(), there[:, order], atol=_CLOSE
    )


@_FEW
@given(_SEEDS, st.integers(1, 30), _ALPHAS, _RIDGES, st.integers(-100, 100))
def test_scaling_all_vectors_changes_nothing(seed: int, seen: int, alpha: float, ridge: float, power: int) -> None:
    words_UW, words_SW = _words(seed, 3, seen, 10)
    factor = 10.0**power
    plain = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    scaled = relate(words_UW * factor, words_SW * factor, alpha=alpha, ridge=ridge * factor**2)
    np.testing.assert_allclose(scaled.dense(), plain.dense(), atol=_CLOSE)
    np.testing.assert_allclose(scaled.objective_U / factor**2, plain.objective_U, rtol=1e-8, atol=1e-9)


@_FEW
@given(_SEEDS, st.integers(1, 30), _ALPHAS, _RIDGES)
def test_adding_a_vector_to_all_changes_nothing(seed: int, seen: int, alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(seed, 3, seen, 10)
    shift_W = 5.0 * np.random.default_rng(seed + 1).standard_normal(10)
    np.testing.assert_allclose(
        relate(words_UW + shift_W, words_SW + shift_W, alpha=alpha, ridge=ridge).dense(),
        relate(words_UW, words_SW, alpha=alpha, ridge=ridge).dense(),
        atol=_CLOSE,
    )


@_FEW
@given(_SEEDS, st.integers(1, 20), st.integers(2, 4), _ALPHAS, _RIDGES)
def test_duplicates_share_evenly(seed: int, seen: int, copies: int, alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(seed, 3, seen, 10)
    # The first class several times, at both ends.
    words_SW = np.vstack([words_SW, np.repeat(words_SW[:1], copies - 1, axis=0)])
    r_US = relate(words_UW, words_SW, alpha=alpha, ridge=ridge).dense()
    shared_UN = r_US[:, [0, *range(seen, seen + copies - 1)]]
    np.testing.assert_allclose(shared_UN, np.broadcast_to(shared_UN[:, :1], shared_UN.shape), atol=_CLOSE)


@_FEW
@given(_SEEDS, st.integers(1, 12), st.integers(0, 11))
def test_an_unseen_class_equal_to_a_seen_one_is_that_one(seed: int, seen: int, which: int) -> None:
    _, words_SW = _words(seed, 1, seen, 15)
    relations = relate(words_SW[which % seen][None], words_SW)
    np.testing.assert_allclose(relations.dense()[0], np.eye(seen)[which % seen], atol=_CLOSE)
    assert relations.objective_U[0] <= 1e-12


@_FEW
@given(_SEEDS, _ALPHAS, _RIDGES)
def test_zero_vectors_are_ordinary_vectors(seed: int, alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(seed, 3, 8, 5)
    words_SW[2], words_UW[1] = 0.0, 0.0
    relations = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    assert (relations.gap_U <= 1e-9).all()
    if ridge == 0.0:
        assert relations.objective_U[1] <= 1e-12  # the zero seen vector fits the zero unseen one
    even = relate(words_UW, np.zeros((8, 5)), alpha=alpha, ridge=ridge)
    np.testing.assert_allclose(even.dense(), 1 / 8, atol=1e-12)
    np.testing.assert_allclose(even.gap_U, 0.0, atol=1e-9)


@_FEW
@given(_SEEDS, _ALPHAS, st.sampled_from([1e-6, 1e3, 1e6, 1e9]))
def test_unseen_classes_far_from_or_close_to_the_seen_mean(seed: int, alpha: float, factor: float) -> None:
    words_UW, words_SW = _words(seed, 3, 12, 6)
    words_UW = words_SW.mean(axis=0) + factor * words_UW
    relations = relate(words_UW, words_SW, alpha=alpha)
    at_mean_U = 0.5 * ((words_UW - words_SW.mean(axis=0)) ** 2).sum(axis=1)
    assert (relations.gap_U <= 1e-9 * np.maximum(relations.objective_U, 1e-3 * at_mean_U) + 1e-14).all()


@pytest.mark.parametrize("alpha", [0.0, -0.05, -1.0])
def test_all_seen_classes_equal_share_evenly(alpha: float) -> None:
    words_UW, words_SW = _words(0, 4, 1, 6)
    relations = relate(words_UW, np.repeat(words_SW, 9, axis=0), alpha=alpha)
    np.testing.assert_allclose(relations.dense(), 1 / 9, atol=1e-12)

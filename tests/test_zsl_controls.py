"""What each control arm is."""

import numpy as np
import pytest
from scipy import sparse

from vgse.zsl.controls import ARMS, build_arms

SEEN_C = np.array([True, False, True, True, False, True, True])
S, U, K, W = 5, 2, 4, 3


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    r_US = rng.dirichlet(np.ones(S), U)
    return rng.normal(size=(S, K)), r_US, rng.normal(size=(7, W)) + 2, rng.normal(size=(U, K))


def arms_of(given, **changes):
    phi_SK, r_US, words_CW, oracle_UK = given
    return build_arms(phi_SK, changes.pop("r_US", r_US), words_CW, SEEN_C, oracle_UK, **changes)


def test_order_and_shapes(given):
    assert tuple(arms_of(given)) == tuple(arm for arm in ARMS if arm != "texts")
    arms = arms_of(given, fused_CD=np.ones((7, 2 * W)))
    assert tuple(arms) == ARMS
    widths = {"words_raw": W, "words_l2": W, "words_centred": W, "texts": 2 * W, "one_hot": S}
    assert all(arms[name].shape == (7, widths.get(name, K)) and arms[name].dtype == np.float32 for name in arms)


def test_vgse_one_hot_and_oracle(given):
    phi_SK, r_US, _, oracle_UK = given
    arms = arms_of(given)
    np.testing.assert_allclose(arms["vgse"][SEEN_C], phi_SK, rtol=1e-6)
    np.testing.assert_allclose(arms["vgse"][~SEEN_C], r_US @ phi_SK, rtol=1e-5)
    np.testing.assert_array_equal(arms["one_hot"][SEEN_C], np.eye(S))
    np.testing.assert_allclose(arms["one_hot"][~SEEN_C], r_US, rtol=1e-6)
    np.testing.assert_allclose(arms["oracle"][SEEN_C], phi_SK, rtol=1e-6)
    np.testing.assert_allclose(arms["oracle"][~SEEN_C], oracle_UK, rtol=1e-6)


def test_word_arms_use_only_the_seen_mean(given):
    words_CW = given[2]
    arms = arms_of(given)
    np.testing.assert_allclose(arms["words_raw"], words_CW, rtol=1e-6)
    np.testing.assert_allclose(arms["words_l2"], words_CW / np.linalg.norm(words_CW, axis=1, keepdims=True), rtol=1e-6)
    centred = words_CW - words_CW[SEEN_C].mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(arms["words_centred"], expected, rtol=1e-5)


def test_random_is_carried_by_r_and_seeded(given):
    r_US = given[1]
    first, again, other = (arms_of(given, seed=seed)["random"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(first[~SEEN_C], r_US @ first[SEEN_C], rtol=1e-4, atol=1e-6)


def test_texts_are_the_fused_knowledge_and_leave_the_word_arms_alone(given):
    fused_CD = np.random.default_rng(5).normal(size=(7, 9))
    plain, fused = arms_of(given), arms_of(given, fused_CD=fused_CD)
    np.testing.assert_allclose(fused.pop("texts"), fused_CD, rtol=1e-6)
    assert list(fused) == list(plain)
    for name, arm in plain.items():
        np.testing.assert_array_equal(fused[name], arm)
    with pytest.raises(ValueError, match="fused"):
        arms_of(given, fused_CD=fused_CD[1:])


def test_further_random_draws_differ_and_leave_the_first(given):
    one, three = arms_of(given), arms_of(given, random_draws=3)
    assert [name for name in three if name.startswith("random")] == ["random", "random-2", "random-3"]
    assert set(three) - set(one) == {"random-2", "random-3"}
    for name, arm in one.items():
        np.testing.assert_array_equal(three[name], arm)
    for name in ("random-2", "random-3"):
        assert three[name].shape == one["random"].shape
        np.testing.assert_allclose(three[name][~SEEN_C], given[1] @ three[name][SEEN_C], rtol=1e-4, atol=1e-6)
    draws = [three[name][SEEN_C] for name in ("random", "random-2", "random-3")]
    assert all(np.abs(draws[a] - draws[b]).min() > 0 for a, b in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(ValueError, match="random_draws"):
        arms_of(given, random_draws=0)


@pytest.mark.parametrize("seed", range(8))
def test_permuted_moves_every_class(given, seed):
    phi_SK, r_US = given[0], given[1]
    permuted = arms_of(given, seed=seed)["permuted"]
    seen = permuted[SEEN_C]
    rows = [int(np.flatnonzero(np.isclose(phi_SK, row, rtol=1e-5).all(1))[0]) for row in seen]
    assert sorted(rows) == list(range(S))
    assert all(row != position for position, row in enumerate(rows))
    np.testing.assert_allclose(permuted[~SEEN_C], r_US @ seen, rtol=1e-4, atol=1e-6)


def test_sparse_relations_give_the_same_arms(given):
    dense, from_sparse = arms_of(given), arms_of(given, r_US=sparse.csr_matrix(given[1]))
    for name in dense:
        np.testing.assert_allclose(dense[name], from_sparse[name], rtol=1e-6)


def test_no_oracle_without_its_embeddings_and_shapes_are_checked(given):
    phi_SK, r_US, words_CW, oracle_UK = given
    assert "oracle" not in build_arms(phi_SK, r_US, words_CW, SEEN_C)
    with pytest.raises(ValueError, match="do not fit"):
        build_arms(phi_SK[:-1], r_US, words_CW, SEEN_C)
    with pytest.raises(ValueError, match="oracle"):
        build_arms(phi_SK, r_US, words_CW, SEEN_C, oracle_UK[:, :-1])

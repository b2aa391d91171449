"""The relation room's public face: shapes, types, errors, advice, the weighted average, chunks and pickles."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from vgse.errors import DataError
from vgse.relation import Relations, advise, prepare, relate, relate_prepared, weighted_average


def _words(unseen: int, seen: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((unseen, width)), generator.standard_normal((seen, width))


@pytest.mark.parametrize("alpha", [0.0, -0.005, -0.05, -1.0])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_answers_are_feasible_and_the_objective_is_the_stated_one(alpha: float, ridge: float) -> None:
    words_UW, words_SW = _words(12, 40, 15)
    relations = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    r_US = relations.dense()
    assert r_US.dtype == np.float64
    assert r_US.min() >= alpha
    assert r_US.max() <= 1.0
    assert np.abs(r_US.sum(axis=1) - 1.0).max() <= 1e-12
    stated_U = 0.5 * ((words_UW - r_US @ words_SW) ** 2).sum(axis=1) + 0.5 * ridge * (r_US**2).sum(axis=1)
    np.testing.assert_allclose(relations.objective_U, stated_U, rtol=1e-10, atol=1e-13)
    assert (relations.gap_U >= 0).all()
    assert (relations.gap_U <= 1e-9 * np.maximum(relations.objective_U, 1e-3)).all()
    assert len(relations.method_U) == 12


def test_the_gap_bounds_the_distance_of_worse_answers_too() -> None:
    from vgse.relation.certificate import gap_bound, gradient

    words_UW, words_SW = _words(6, 30, 10)
    generator = np.random.default_rng(1)
    for alpha, ridge in [(0.0, 0.0), (0.0, 0.5), (-0.1, 0.0), (-1.0, 0.5)]:
        problem = prepare(words_SW, alpha, ridge)
        unseen_UD = problem.centre(words_UW)
        optimum_U = relate_prepared(problem, words_UW).objective_U / problem.scale**2
        for spread in (1e-6, 1e-2, 1.0):
            # Feasible points at several distances from the optimum.
            best_US = relate_prepared(problem, words_UW).dense()
            worse_US = (1 - spread) * best_US + spread * generator.dirichlet(np.ones(30), 6)
            objective_U, gradient_US = gradient(problem, unseen_UD, worse_US)
            bound_U = gap_bound(problem, worse_US, gradient_US)
            assert (bound_U >= objective_U - optimum_U - 1e-13).all()


def test_one_seen_class_takes_everything() -> None:
    words_UW, words_SW = _words(3, 1, 7)
    for alpha in (0.0, -1.0):
        relations = relate(words_UW, words_SW, alpha=alpha, ridge=0.3)
        np.testing.assert_array_equal(relations.dense(), np.ones((3, 1)))
        assert relations.gap_U.max() == pytest.approx(0.0, abs=1e-12)


def test_two_seen_classes_by_hand() -> None:
    # w projected on the line through two points, clipped to the segment.
    words_SW = np.array([[0.0, 0.0], [2.0, 0.0]])
    words_UW = np.array([[0.5, 3.0], [9.0, 1.0], [-4.0, 0.0]])
    np.testing.assert_allclose(relate(words_UW, words_SW).dense(), [[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(
        relate(words_UW, words_SW, alpha=-0.5).dense(), [[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]], atol=1e-12
    )


def test_many_seen_classes_give_a_sparse_matrix_at_alpha_zero_only() -> None:
    words_UW, words_SW = _words(5, 300, 20)
    at_zero = relate(words_UW, words_SW)
    assert sparse.issparse(at_zero.r_US)
    assert at_zero.r_US.format == "csr"
    assert at_zero.r_US.shape == (5, 300)
    assert at_zero.r_US.nnz < 5 * 60
    assert isinstance(relate(words_UW, words_SW, alpha=-0.5).r_US, np.ndarray)
    assert isinstance(relate(words_UW[:, :10], words_SW[:50, :10]).r_US, np.ndarray)


def test_no_unseen_classes() -> None:
    _, words_SW = _words(1, 300, 20)
    for alpha in (0.0, -0.5):
        relations = relate(np.zeros((0, 20)), words_SW, alpha=alpha)
        assert relations.dense().shape == (0, 300)
        assert relations.method_U == []


@pytest.mark.parametrize("alpha", [0.0, -0.05])
def test_chunks_with_a_pickled_problem_equal_one_call(alpha: float) -> None:
    words_UW, words_SW = _words(30, 80, 25)
    whole = relate(words_UW, words_SW, alpha=alpha)
    problem = pickle.loads(pickle.dumps(prepare(words_SW, alpha, 0.0)))
    parts = [relate_prepared(problem, words_UW[start : start + 7]) for start in range(0, 30, 7)]
    # At alpha < 0 ties are settled to about rounding / 1e-8, and products of other shapes round differently.
    np.testing.assert_allclose(np.vstack([part.dense() for part in parts]), whole.dense(), atol=1e-6)
    assert [name for part in parts for name in part.method_U] == whole.method_U


def test_float32_words_are_solved_in_float64() -> None:
    words_UW, words_SW = (words.astype(np.float32) for words in _words(4, 20, 8))
    expected = relate(words_UW.astype(np.float64), words_SW.astype(np.float64))
    np.testing.assert_array_equal(relate(words_UW, words_SW).dense(), expected.dense())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["words_UW", "words_SW"])
def test_non_finite_words_are_refused_by_name_and_row(value: float, which: str) -> None:
    words_UW, words_SW = _words(6, 9, 4)
    (words_UW if which == "words_UW" else words_SW)[5, 2] = value
    for call in (relate, weighted_average):
        with pytest.raises(DataError, match=rf"{which}: row 5 holds NaN or infinity"):
            call(words_UW, words_SW)


def test_settings_and_shapes_out_of_range_are_refused_by_name() -> None:
    words_UW, words_SW = _words(3, 5, 4)
    for alpha in (0.1, -1.1, np.nan):
        with pytest.raises(ValueError, match="alpha"):
            relate(words_UW, words_SW, alpha=alpha)
    for ridge in (-1e-9, np.inf, np.nan):
        with pytest.raises(ValueError, match="ridge"):
            relate(words_UW, words_SW, ridge=ridge)
    with pytest.raises(ValueError, match="words_UW has 3 columns but words_SW has 4"):
        relate(words_UW[:, :3], words_SW)
    with pytest.raises(ValueError, match="words_SW"):
        relate(words_UW, words_SW[:0])
    with pytest.raises(ValueError, match="words_SW"):
        relate(words_UW, words_SW[0])
    with pytest.raises(ValueError, match="words_UW"):
        relate(np.array([["a", "b", "c", "d"]]), words_SW)
    with pytest.raises(ValueError, match="neighbours"):
        weighted_average(words_UW, words_SW, neighbours=0)
    with pytest.raises(ValueError, match="eta"):
        weighted_average(words_UW, words_SW, eta=-1.0)


def test_weighted_average_against_the_formula() -> None:
    words_UW, words_SW = _words(4, 12, 6)
    relations = weighted_average(words_UW, words_SW, neighbours=3, eta=0.7)
    assert relations.method_U == ["weighted_average"] * 4
    assert np.isnan(relations.gap_U).all()
    for u, w in enumerate(words_UW):
        distance_S = np.sqrt(((w - words_SW) ** 2).sum(axis=1))
        expected_S = np.zeros(12)
        near = np.argsort(distance_S)[:3]
        expected_S[near] = np.exp(-0.7 * distance_S[near]) / np.exp(-0.7 * distance_S[near]).sum()
        np.testing.assert_allclose(relations.dense()[u], expected_S, atol=1e-14)
        assert relations.objective_U[u] == pytest.approx(0.5 * ((w - expected_S @ words_SW) ** 2).sum())


def test_weighted_average_at_its_edges() -> None:
    words_UW, words_SW = _words(3, 4, 5)
    np.testing.assert_allclose(weighted_average(words_UW, words_SW, neighbours=9, eta=0.0).dense(), 0.25)
    # exp(-eta d) underflows for every class; the nearest must still win.
    far = weighted_average(words_UW, words_SW, neighbours=2, eta=1e6).dense()
    nearest_U = np.linalg.norm(words_UW[:, None] - words_SW[None], axis=2).argmin(axis=1)
    np.testing.assert_allclose(far, np.eye(4)[nearest_U], atol=1e-12)


def _advice(words_UW: np.ndarray, words_SW: np.ndarray, alpha: float = 0.0, ridge: float = 0.0) -> list[str]:
    seen, unseen = [f"s{i}" for i in range(len(words_SW))], [f"u{i}" for i in range(len(words_UW))]
    return advise(words_UW, words_SW, alpha=alpha, ridge=ridge, seen_names=seen, unseen_names=unseen)


def test_advice_is_silent_on_good_words() -> None:
    words_UW, words_SW = _words(5, 30, 10)
    assert _advice(words_UW, words_SW) == []
    assert _advice(words_UW, words_SW, alpha=-1.0, ridge=0.1) == []
    assert _advice(words_UW, words_SW[:10], alpha=-1.0) == []


def test_advice_names_what_is_wrong() -> None:
    words_UW, words_SW = _words(15, 30, 10)
    assert "underdetermined" in "".join(_advice(words_UW, words_SW, alpha=-0.05))
    words_SW[3] = words_SW[8]
    words_SW[5] *= 1e4
    words_UW[2] = words_SW[7]
    words_UW[4] = 0.0
    words_UW[6] = words_UW[9]
    advice = _advice(words_UW, words_SW)
    assert len(advice) == 5
    text = "\n".join(advice)
    for expected in ("1 word vectors are zero: u4", "badly scaled", "s5", "s8 = s3", "u2 = s7", "u9 = u6"):
        assert expected in text
    words_UW[:12] = words_SW[:12]
    assert "u7 = s7 and 4 more" in "\n".join(_advice(words_UW, words_SW))
    with pytest.raises(ValueError, match="seen_names"):
        advise(words_UW, words_SW, alpha=0.0, ridge=0.0, seen_names=["a"], unseen_names=["u"] * 15)


_SOLVE = """
import warnings, numpy as np
warnings.simplefilter("error")
from vgse.relation import relate
from vgse.relation.active_set import block_solver
generator = np.random.default_rng(0)
words_UW, words_SW = generator.standard_normal((5, 20)), generator.standard_normal((40, 20))
print(block_solver().__module__, *(float(relate(words_UW, words_SW, alpha=a).objective_U.sum()) for a in (0.0, -0.05)))
"""


def _run(prelude: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", prelude + _SOLVE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_numba_and_without_a_place_for_its_cache() -> None:
    generator = np.random.default_rng(0)
    words_UW, words_SW = generator.standard_normal((5, 20)), generator.standard_normal((40, 20))
    expected = [relate(words_UW, words_SW, alpha=alpha).objective_U.sum() for alpha in (0.0, -0.05)]
    module, *objectives = _run("import sys; sys.modules['numba'] = None\n")
    assert module == "vgse.relation.active_set_numpy"
    np.testing.assert_allclose([float(value) for value in objectives], expected, rtol=1e-10)
    # Numba raises this error itself when neither the package nor the user's cache folder can be written.
    module, *objectives = _run("import numba.core.caching as c; c.CacheImpl._locator_classes = []\n")
    assert module == "vgse.relation.active_set_kernel"
    np.testing.assert_allclose([float(value) for value in objectives], expected, rtol=1e-10)


def test_importing_the_room_loads_neither_ray_nor_torch_nor_numba() -> None:
    code = "import sys, vgse.relation; print(sorted({'ray', 'torch', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_relations_are_frozen() -> None:
    relations = Relations(np.ones((1, 1)), np.zeros(1), np.zeros(1), ["closed_form"])
    with pytest.raises(AttributeError):
        relations.gap_U = np.ones(1)  # type: ignore[misc]

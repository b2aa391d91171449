"""Agreement with an independent solver: cvxpy + Clarabel at tight tolerance, 200 random and 200 real problems."""

import itertools
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest

from vgse.relation import relate

_WORDS = Path(__file__).parents[1].parent / "shared" / "data" / "word_vectors" / "glove_100d_22k.bin"
_ALPHAS = (0.0, -0.005, -0.05, -1.0)
_TIGHT = {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13, "max_iter": 200}


def _reference(words_SW: np.ndarray, alpha: float, ridge: float) -> tuple[cp.Problem, cp.Parameter]:
    r, w = cp.Variable(len(words_SW)), cp.Parameter(words_SW.shape[1])
    objective = 0.5 * cp.sum_squares(w - words_SW.T @ r) + 0.5 * ridge * cp.sum_squares(r)
    return cp.Problem(cp.Minimize(objective), [cp.sum(r) == 1, r >= alpha, r <= 1]), w


def _agree(words_UW: np.ndarray, words_SW: np.ndarray, alpha: float, ridge: float) -> int:
    """Compares every unseen class; vectors are scaled to about unit norm so that 1e-8 means the same everywhere."""
    unit = np.sqrt((words_SW**2).sum(axis=1).mean())
    words_UW, words_SW = words_UW / unit, words_SW / unit
    relations = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    problem, w = _reference(words_SW, alpha, ridge)
    for words_W, ours in zip(words_UW, relations.objective_U, strict=True):
        w.value = words_W
        problem.solve(solver=cp.CLARABEL, **_TIGHT)
        assert problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE)
        assert ours == pytest.approx(problem.value, abs=1e-8)
    return len(words_UW)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_two_hundred_random_problems_agree_with_clarabel() -> None:
    generator = np.random.default_rng(0)
    solved = 0
    for (seen, width), alpha, ridge in itertools.product(
        [(10, 20), (20, 20), (21, 20), (40, 20), (60, 10)], _ALPHAS, (0.0, 0.5)
    ):
        words = generator.standard_normal((seen + 5, width))
        solved += _agree(words[seen:], words[:seen], alpha, ridge)
    assert solved == 200


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_two_hundred_real_problems_agree_with_clarabel() -> None:
    if not _WORDS.exists():
        pytest.skip(f"the shared word vectors are not at {_WORDS}")
    from gensim.models import KeyedVectors

    words = KeyedVectors.load_word2vec_format(str(_WORDS), binary=True).vectors.astype(np.float64)
    generator = np.random.default_rng(0)
    solved = 0
    for seen, alpha, ridge in itertools.product([30, 60, 100, 101, 120], _ALPHAS, (0.0, 0.5)):
        chosen = words[generator.choice(len(words), seen + 5, replace=False)]
        solved += _agree(chosen[seen:], chosen[:seen], alpha, ridge)
    assert solved == 200

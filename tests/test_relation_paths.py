"""Every path alone: it is taken where it should be, its answers are certified, and the paths agree."""

from dataclasses import replace

import numpy as np
import pytest

from vgse.errors import DataError
from vgse.relation import (
    Problem,
    active_set,
    active_set_numpy,
    certificate,
    column_generation,
    dual_active_set,
    prepare,
    relate,
    solve,
)
from vgse.relation.interior_point import interior_point


def _words(unseen: int, seen: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((unseen, width)), generator.standard_normal((seen, width))


def _agrees_with_interior_point(
    problem: Problem, unseen_UD: np.ndarray, objective_U: np.ndarray, gap_U: np.ndarray
) -> None:
    """No worse than the interior point, which shares nothing with the other paths, and not better than proven."""
    theirs_US = np.array([interior_point(problem, w_D, interior_point(problem, w_D)) for w_D in unseen_UD])
    theirs_U = solve.certified(problem, unseen_UD, theirs_US)[1]
    assert not np.isnan(theirs_U).any()
    scale_U = 0.5 * (unseen_UD**2).sum(axis=1)
    assert (objective_U <= theirs_U + 1e-9 * scale_U).all()
    assert (theirs_U >= objective_U - gap_U - 1e-14 * scale_U).all()


# Settings under which each path is the right one, and what share of rows it must solve by itself.
_CASES = [
    ("active_set", active_set.active_set, 60, 20, 0.0, 0.0),
    ("active_set", active_set.active_set, 60, 20, 0.0, 0.7),
    ("column_generation", column_generation.column_generation, 400, 30, 0.0, 0.0),
    ("column_generation", column_generation.column_generation, 400, 30, 0.0, 0.7),
    ("column_generation", column_generation.column_generation, 400, 30, -0.001, 0.0),
    ("closed_form", solve.closed_form, 60, 20, -1.0, 0.0),
    ("closed_form", solve.closed_form, 60, 90, -1.0, 2.0),
    ("dual_active_set", dual_active_set.dual_active_set, 200, 40, -0.05, 0.0),
    ("dual_active_set", dual_active_set.dual_active_set, 40, 60, -0.2, 30.0),
    ("active_set", active_set.boxed, 200, 60, -0.005, 0.0),
    ("active_set", active_set.boxed, 30, 40, -0.2, 0.5),
    ("dual_newton", solve.dual_newton, 200, 20, 0.0, 400.0),
    ("dual_newton", solve.dual_newton, 200, 20, -0.005, 5.0),
]


@pytest.mark.parametrize(("name", "path", "seen", "width", "alpha", "ridge"), _CASES)
def test_each_path_is_exact_on_its_own(name, path, seen, width, alpha, ridge) -> None:  # type: ignore[no-untyped-def]
    words_UW, words_SW = _words(20, seen, width)
    problem = prepare(words_SW, alpha, ridge)
    unseen_UD = problem.centre(words_UW)
    r_US, objective_U, gap_U = solve.certified(problem, unseen_UD, path(problem, unseen_UD))
    solved_U = gap_U <= solve.tolerance(problem, unseen_UD, objective_U)
    assert solved_U.mean() >= 0.9, f"{name} certified {solved_U.sum()} of 20"
    assert r_US[solved_U].min() >= alpha
    _agrees_with_interior_point(problem, unseen_UD[solved_U], objective_U[solved_U], gap_U[solved_U])


@pytest.mark.parametrize(
    ("seen", "width", "alpha", "ridge", "expected"),
    [
        (60, 20, 0.0, 0.0, {"active_set"}),
        (2100, 20, 0.0, 0.0, {"column_generation"}),
        (60, 20, -1.0, 0.0, {"closed_form"}),
        (200, 40, -0.05, 0.0, {"dual_active_set"}),
        (300, 60, -0.005, 0.0, {"active_set"}),
        (2100, 20, -0.001, 0.5, {"dual_newton"}),
        (300, 20, 0.0, 1e4, {"dual_newton"}),
        (1, 5, -0.5, 0.0, {"closed_form"}),
    ],
)
def test_the_path_is_picked_by_the_problem(
    seen: int, width: int, alpha: float, ridge: float, expected: set[str]
) -> None:
    words_UW, words_SW = _words(15, seen, width)
    relations = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
    assert set(relations.method_U) == expected
    assert (relations.gap_U <= 1e-9 * np.maximum(relations.objective_U, 1e-3)).all()


def test_rows_a_path_gets_wrong_go_to_the_next_and_are_counted_as_its(monkeypatch: pytest.MonkeyPatch) -> None:
    words_UW, words_SW = _words(8, 40, 15)
    expected = relate(words_UW, words_SW)

    def broken(problem: Problem, unseen_UD: np.ndarray) -> np.ndarray:
        r_US = active_set.active_set(problem, unseen_UD)
        r_US[0] = 1.0 / problem.seen  # feasible, not optimal
        r_US[1] = np.nan
        r_US[2] = 2.0  # outside the box
        r_US[3] *= 0.5  # sums to a half
        return r_US

    monkeypatch.setattr(solve, "paths", lambda problem: [("broken", broken), ("fallback", solve._fallback)])
    relations = relate(words_UW, words_SW)
    assert relations.method_U[:3] == ["fallback"] * 3
    assert relations.method_U[4:] == ["broken"] * 4
    np.testing.assert_allclose(relations.objective_U, expected.objective_U, rtol=1e-9)
    assert np.abs(relations.dense().sum(axis=1) - 1.0).max() <= 1e-12
    assert (relations.gap_U <= 1e-9 * relations.objective_U).all()


@pytest.mark.parametrize("alpha", [0.0, -0.005, -0.05, -1.0])
@pytest.mark.parametrize(("seen", "width"), [(30, 40), (80, 20)])
def test_the_numpy_twin_equals_the_compiled_kernel(
    alpha: float, seen: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words_UW, words_SW = _words(10, seen, width)
    compiled = [relate(words_UW, words_SW, alpha=alpha, ridge=ridge) for ridge in (0.0, 0.5)]
    for module in (active_set, dual_active_set, column_generation):
        monkeypatch.setattr(module, "block_solver", lambda: active_set_numpy.minimise_block)
    for ridge, there in zip((0.0, 0.5), compiled, strict=True):
        here = relate(words_UW, words_SW, alpha=alpha, ridge=ridge)
        assert here.method_U == there.method_U
        np.testing.assert_allclose(here.dense(), there.dense(), atol=1e-6)
        np.testing.assert_allclose(here.objective_U, there.objective_U, rtol=1e-9, atol=1e-10)


def test_a_compiler_that_fails_is_reported_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from vgse.relation import active_set_kernel

    def failing(*_: object) -> np.ndarray:
        raise OSError("no space left on device")

    monkeypatch.setattr(active_set_kernel, "minimise_block", failing)
    active_set.block_solver.cache_clear()
    try:
        with pytest.warns(UserWarning, match="no space left on device"):
            assert active_set.block_solver() is active_set_numpy.minimise_block
    finally:
        active_set.block_solver.cache_clear()


@pytest.mark.parametrize("alpha", [0.0, -0.2, -1.0])
def test_rounding_in_the_constraints_is_repaired_without_leaving_bounds(alpha: float) -> None:
    generator = np.random.default_rng(2)
    r_US = alpha + (1.0 - 20 * alpha) * generator.dirichlet(np.full(20, 0.3), 50)
    r_US[:, :5] = alpha
    r_US[7] = alpha  # nothing off a bound: the repair must still find room
    r_US[8] = 1.0
    r_US += 1e-9 * generator.standard_normal((50, 1)) * (r_US > alpha)
    repaired_US = certificate.make_feasible(r_US, alpha)
    assert certificate.violation(repaired_US, alpha).max() <= 1e-12
    others = np.arange(50) > 8
    np.testing.assert_array_equal(repaired_US[others, :5], alpha)


@pytest.mark.parametrize("alpha", [0.0, -0.3, -1.0])
def test_words_of_few_values_full_of_ties_are_solved(alpha: float) -> None:
    generator = np.random.default_rng(3)
    for seen, width in [(12, 3), (40, 6), (150, 8)]:
        words = generator.integers(-1, 2, (seen + 10, width)).astype(float)
        relations = relate(words[seen:], words[:seen], alpha=alpha)
        assert (relations.gap_U <= 1e-9).all()
        # Equal seen vectors share evenly, also when there are many of them.
        r_US = relations.dense()
        _, first, group = np.unique(words[:seen], axis=0, return_index=True, return_inverse=True)
        np.testing.assert_allclose(r_US, r_US[:, first[group]], atol=1e-6)


def test_badly_scaled_rows_are_bounded_honestly() -> None:
    # Nearly dependent words: the proven gap may exceed the tolerance, but must not hide the distance from the optimum.
    generator = np.random.default_rng(5)
    for _ in range(5):
        line = generator.standard_normal((34, 1)) * generator.standard_normal((1, 10))
        words = line + 1e-5 * generator.standard_normal((34, 10))
        relations = relate(words[30:], words[:30])
        problem = replace(prepare(words[:30]), tie_ridge=1e-14)
        unit = problem.scale**2
        _agrees_with_interior_point(
            problem, problem.centre(words[30:]), relations.objective_U / unit, relations.gap_U / unit
        )


def test_unseen_words_beyond_any_sense_are_refused_by_row() -> None:
    words_UW, words_SW = _words(3, 5, 4)
    words_UW[1] *= 1e200
    with pytest.raises(DataError, match="words_UW: row 1"):
        relate(words_UW, words_SW)
    for factor in (1e-200, 1e200):
        with pytest.raises(DataError, match=r"words_SW: .* row"):
            relate(words_SW[:2] * factor, words_SW * factor)

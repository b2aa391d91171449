"""Is one arm better than another? Paired differences with bootstrap intervals, and a sentence that says no more.

Accuracies of class splits and of classes within a split vary far more than images do, so both are resampled: class
splits with replacement, and within each drawn split the classes with replacement, the same ones for both arms (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals, sections 13.3 and 8.3 for two levels).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vgse.zsl.metrics import Figures, harmonic_mean
from vgse.zsl.mode import mode_of, title_prefix
from vgse.zsl.protocol import ModelResult

Results = Mapping[str, Mapping[str, ModelResult]]
"""{arm: {model: result}} of one class split."""

COMPARED_FIGURES = ("T1", "H")
_RANDOM_DRAW = re.compile(r"random(-\d+)?")
# Class numbers drawn at a time (32 MB), whatever the number of classes.
_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True)
class Comparison:
    """One arm against another in one model and one figure.

    Attributes:
        arm, against: the two arms.
        model: the zero-shot model.
        figure: T1 or H.
        difference: mean over class splits of the arm's figure minus the other's, in percentage points.
        low, high: ends of its 95 % interval.
        splits: class splits compared.
        sentence: all of it in words: better, worse, or no difference shown where the interval holds 0.
    """

    arm: str
    against: str
    model: str
    figure: str
    difference: float
    low: float
    high: float
    splits: int
    sentence: str

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`, by the interval as it is printed: to a tenth of a point."""
        if round(self.low, 1) > 0:
            return "better"
        return "worse" if round(self.high, 1) < 0 else "no difference shown"


def compare(
    per_split: Sequence[Results],
    arm: str = "vgse",
    against: Sequence[str] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> list[Comparison]:
    """Compares `arm` with others in T1 and H, in every model.

    T1 is the mean of the resampled classes' accuracies, H comes from the means of u over resampled unseen and of s over
    independently resampled seen classes. With one class split only classes are resampled, and the sentence says so:
    such an interval does not cover what another choice of classes would bring. Several random draws (random, random-2,
    ...) are compared as their mean per class.

    Args:
        per_split: for each class split {arm: {model: result}} with accuracies per class.
        arm: the arm to be judged.
        against: the others; all of them if not given.
        draws: bootstrap draws.
        seed: of the draws; equal seeds resample the same splits and classes whatever the arms.

    Returns:
        One comparison for each of the others, each model and each figure, in this order.

    Raises:
        ValueError: no split, an unknown arm, or arms whose accuracies per class do not fit together.
    """
    if not per_split:
        raise ValueError("there is no split to compare")
    collapsed = [collapse_draws(split) for split in per_split]
    arms = list(collapsed[0])
    others = [name for name in (arms if against is None else against) if name != arm]
    for name in (arm, *others):
        if any(name not in split for split in collapsed):
            raise ValueError(f"there is no arm {name}; arms are {', '.join(arms)}")
    models = list(collapsed[0][arm])
    columns = {(name, model): i for i, (name, model) in enumerate((a, m) for a in (arm, *others) for m in models)}
    tables = [_accuracies(split, list(columns)) for split in collapsed]
    resampled = _resampled(tables, draws, np.random.default_rng([seed, len(tables)]))
    exact = [_figures_of(np.stack([means.mean(axis=0) for means in table])) for table in tables]
    prefix, found = title_prefix(mode_of(per_split)), []
    for other in others:
        for model in models:
            one, two = columns[arm, model], columns[other, model]
            for figure, drawn_DL in zip(COMPARED_FIGURES, resampled, strict=True):
                number = COMPARED_FIGURES.index(figure)
                difference = float(np.mean([figures[number][one] - figures[number][two] for figures in exact]))
                low, high = np.percentile(drawn_DL[:, one] - drawn_DL[:, two], [2.5, 97.5])
                points = [round(100 * float(value), 4) for value in (difference, low, high)]
                pair = Comparison(arm, other, model, figure, points[0], points[1], points[2], len(tables), "")
                found.append(_said(pair, prefix))
    return found


def collapse_draws(split: Results) -> dict[str, dict[str, ModelResult]]:
    """The results with the arms random, random-2, ... as one arm `random`: their mean, class by class.

    Its H is that of the mean u and the mean s, so that it agrees with its accuracies per class.
    """
    draws = random_draws(split)
    out: dict[str, dict[str, ModelResult]] = {}
    for arm, models in split.items():
        if arm not in draws:
            out[arm] = dict(models)
        elif "random" not in out:
            out["random"] = {model: _mean_result([split[draw][model] for draw in draws]) for model in models}
    return out


def over_seeds(per_round: Sequence[Results], splits: Sequence[int]) -> list[Results]:
    """Results per class split: those of several seeds of one split as their mean, class by class.

    Seeds share their classes, so as splits of their own they would make intervals look narrower than they are.

    Args:
        per_round: for each class split and seed {arm: {model: result}}.
        splits: the class split that each of them is of.
    """
    grouped: dict[int, list[Results]] = {}
    for split, results in zip(splits, per_round, strict=True):
        grouped.setdefault(split, []).append(results)
    return [
        {
            arm: {model: _mean_result([results[arm][model] for results in of_split]) for model in models}
            for arm, models in of_split[0].items()
        }
        for of_split in grouped.values()
    ]


def random_draws(split: Mapping[str, Any]) -> list[str]:
    """The arms that are draws of the random control."""
    return [arm for arm in split if _RANDOM_DRAW.fullmatch(arm)]


def _mean_result(results: Sequence[ModelResult]) -> ModelResult:
    if len(results) == 1:
        return results[0]
    T1, u, s = (float(np.mean([getattr(result.figures, name) for result in results])) for name in ("T1", "u", "s"))
    return replace(
        results[0],
        figures=Figures(T1, u, s, harmonic_mean(u, s)),
        per_class={
            name: np.mean([result.per_class[name] for result in results], axis=0) for name in results[0].per_class
        },
        hubness=float(np.mean([result.hubness for result in results])),
    )


def _accuracies(split: Results, columns: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1 (U, L), u (U, L) and s (S, L) of every pair of arm and model."""
    tables = []
    for name in ("T1", "u", "s"):
        per_class = [np.asarray(split[arm][model].per_class.get(name, ()), np.float64) for arm, model in columns]
        if len({values.shape for values in per_class}) != 1 or per_class[0].size == 0:
            raise ValueError(f"the arms' accuracies per class ({name}) are missing or of different classes")
        tables.append(np.stack(per_class, axis=1))
    if len(tables[0]) != len(tables[1]):
        raise ValueError("T1 and u are of different unseen classes")
    return tables[0], tables[1], tables[2]


def _resampled(
    tables: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """T1 and H of resampled class splits and classes, each (D, L)."""
    split_DP = rng.integers(len(tables), size=(draws, len(tables)))
    T1_DPL, H_DPL = np.empty((2, *split_DP.shape, tables[0][0].shape[1]))
    for number, (T1_UL, u_UL, s_SL) in enumerate(tables):
        here_DP = split_DP == number
        unseen_NL, s_NL = (
            _class_means(values_CL, int(here_DP.sum()), rng) for values_CL in (np.hstack([T1_UL, u_UL]), s_SL)
        )
        T1_DPL[here_DP], H_DPL[here_DP] = _figures_of(np.stack([*np.split(unseen_NL, 2, axis=1), s_NL]))
    return T1_DPL.mean(axis=1), H_DPL.mean(axis=1)


def _figures_of(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T1 and H from the means of T1, u and s over classes (3, ...)."""
    T1, u, s = means
    return T1, 2.0 * u * s / np.where(u + s > 0, u + s, 1.0)


def _class_means(values_CL: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means (N, L) over classes drawn with replacement, `count` times; the same classes for all columns."""
    classes = len(values_CL)
    out_NL = np.empty((count, values_CL.shape[1]))
    step = max(1, _DRAWN_AT_ONCE // classes)
    for start in range(0, count, step):
        rows = min(step, count - start)
        drawn = rng.integers(classes, size=(rows, classes)) + classes * np.arange(rows)[:, None]
        times_NC = np.bincount(drawn.ravel(), minlength=rows * classes).reshape(rows, classes)
        out_NL[start : start + rows] = times_NC.astype(np.float64) @ values_CL / classes
    return out_NL


def _said(comparison: Comparison, prefix: str) -> Comparison:
    name = "VGSE" if comparison.arm == "vgse" else comparison.arm
    low, high = (signless_zero(f"{end:.1f}") for end in (comparison.low, comparison.high))
    size = signless_zero(f"{comparison.difference:+.1f}")
    sentence = f"{name} over {comparison.against}: {comparison.figure} {size} [{low}, {high}]: {comparison.verdict}"
    only_one = " (one class split: only classes resampled)" if comparison.splits == 1 else ""
    return replace(comparison, sentence=f"{prefix}{sentence}{only_one}")


def signless_zero(number: str) -> str:
    """`-0.0` reads as a direction where there is none."""
    return "0.0" if number in {"-0.0", "+0.0"} else number

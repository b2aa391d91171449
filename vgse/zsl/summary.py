"""Results of one or several class splits in the form of evaluation.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vgse.zsl.comparisons import Comparison, Results, collapse_draws, compare, over_seeds, random_draws
from vgse.zsl.mode import CHOICES, Mode, mode_of
from vgse.zsl.protocol import ModelResult

FIGURES = ("T1", "u", "s", "H")
PER_CLASS = ("T1", "u", "s")
# With more classes the accuracies per class would make up a file of tens of megabytes.
_MOST_CLASSES = 2000

ClassNames = Sequence[tuple[Sequence[str], Sequence[str]]]
"""For each class split the names of its seen and of its unseen classes, in the order of the episode."""


def aggregate(
    per_split: Sequence[Results],
    class_names: ClassNames | None = None,
    compared: Mapping[str, Sequence[str] | None] | None = None,
    mode: Mode | None = None,
    splits: Sequence[int] | None = None,
) -> dict[str, Any]:
    """`protocol`, `arms`, `comparisons`, `per_class` and `hubness` as evaluation.json holds them.

    Args:
        per_split: for each class split, or each seed of each, {arm: {model: result}}, as `evaluate_arms` returns it.
        class_names: of each of them; without them there is no `per_class`.
        compared: which arms are compared with which others (None: all others); vgse with all others if not given.
        mode: how choices were made, checked against what the results say of it; read off them if not given.
        splits: the class split that each element of `per_split` is of; all different if not given.

    Returns:
        `arms`: {arm: {model: {T1, u, s, H}}}, fractions; with several splits each figure is {"mean", "std", "values"},
        std being the sample standard deviation over splits (n - 1). Several random draws are one arm, their mean in
        each split. `hubness`: {arm: {model: one number, as above}}. `comparisons`: see `comparisons.compare`.
        `per_class`: {arm: {model: {T1, u, s: [{class: accuracy} for each split]}}}. `protocol`: `mode` (honest or
        as-published) with what it means under `choices`, how many splits and random draws, how figures were chosen,
        and under `chosen` each split's hyperparameters by arm and model.

    Raises:
        ValueError: no split, splits that hold different arms or models, or results of another mode.
    """
    if not per_split:
        raise ValueError("there is no split to aggregate")
    if mode is not None and mode != mode_of(per_split):
        raise ValueError(f"these results are {mode_of(per_split)}, not {mode}")
    for number, split in enumerate(per_split[1:], start=1):
        if _models_of(split) != _models_of(per_split[0]):
            raise ValueError(f"split {number} holds other arms or models than split 0")
    collapsed = [collapse_draws(split) for split in per_split]
    splits = range(len(per_split)) if splits is None else splits
    comparisons = _comparisons(over_seeds(per_split, splits), compared)
    summary: dict[str, Any] = {
        "protocol": _protocol(per_split, len(set(splits)), comparisons),
        "arms": _by_arm_and_model(collapsed, _figures_over_splits),
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "hubness": _by_arm_and_model(collapsed, lambda results: over_splits([r.hubness for r in results])),
    }
    if class_names is not None:
        classes = max(len(seen) + len(unseen) for seen, unseen in class_names)
        if classes > _MOST_CLASSES:
            summary["protocol"]["per_class"] = f"left out: {classes} classes"
        else:
            summary["per_class"] = _by_arm_and_model(collapsed, lambda results: _named(results, class_names))
    return summary


def _models_of(split: Results) -> dict[str, set[str]]:
    return {arm: set(models) for arm, models in split.items()}


def _comparisons(per_split: Sequence[Results], compared: Mapping[str, Sequence[str] | None] | None) -> list[Comparison]:
    if compared is None:
        # Results without accuracies per class (of a caller's own making) are summed up all the same.
        whole = all(result.per_class for split in per_split for models in split.values() for result in models.values())
        compared = {"vgse": None} if whole and "vgse" in per_split[0] else {}
    return [found for arm, others in compared.items() for found in compare(per_split, arm, others)]


def _protocol(per_split: Sequence[Results], splits: int, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    mode: Mode = mode_of(per_split)
    on = "on the test set" if mode == "as-published" else "on the validation classes"
    protocol: dict[str, Any] = {
        "mode": mode,
        "choices": CHOICES[mode],
        "class_splits": splits,
        "seeds": len(per_split) // splits,
        "random_draws": len(random_draws(per_split[0])),
        "T1": f"mean per-class top-1 of unseen classes; hyperparameters with the best T1 {on}",
        "u_s_H": "mean per-class top-1 with all classes as candidates, calibrated stacking; hyperparameters and "
        f"constant with the best H {on}",
        "hubness": "skewness of how often each unseen class is predicted where only unseen classes are candidates",
        "chosen": {
            arm: {model: [split[arm][model].chosen for split in per_split] for model in models}
            for arm, models in per_split[0].items()
        },
    }
    if comparisons:
        what = "class splits and classes within them" if splits > 1 else "classes of the one class split"
        protocol["comparisons"] = (
            f"paired differences in percentage points with 95 % percentile bootstrap intervals, {what} resampled"
        )
    return protocol


def _by_arm_and_model(
    per_split: Sequence[Results], summed: Callable[[list[ModelResult]], Any]
) -> dict[str, dict[str, Any]]:
    return {
        arm: {model: summed([split[arm][model] for split in per_split]) for model in models}
        for arm, models in per_split[0].items()
    }


def _figures_over_splits(results: list[ModelResult]) -> dict[str, Any]:
    return {name: over_splits([float(getattr(result.figures, name)) for result in results]) for name in FIGURES}


def over_splits(values: Sequence[float]) -> Any:
    """A figure of one class split as it is, that of several as {"mean", "std", "values"}."""
    if len(values) == 1:
        return float(values[0])
    values = [float(value) for value in values]
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": values}


def _named(results: list[ModelResult], class_names: ClassNames) -> dict[str, list[dict[str, float]]]:
    out: dict[str, list[dict[str, float]]] = {name: [] for name in PER_CLASS}
    for result, (seen, unseen) in zip(results, class_names, strict=True):
        for name, classes in zip(PER_CLASS, (unseen, unseen, seen), strict=True):
            accuracies = (round(float(accuracy), 4) for accuracy in result.per_class[name])
            out[name].append(dict(zip(classes, accuracies, strict=True)))
    return out

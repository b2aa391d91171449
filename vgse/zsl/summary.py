"""Results of one or several class splits in the form of evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgse.zsl.metrics import Figures
from vgse.zsl.protocol import ModelResult

FIGURES = ("T1", "u", "s", "H")


def aggregate(per_split: Sequence[Mapping[str, Mapping[str, ModelResult | Figures]]]) -> dict[str, Any]:
    """`protocol` and `arms` as evaluation.json holds them.

    Args:
        per_split: for each class split {arm: {model: result}}, as `evaluate_arms` returns it.

    Returns:
        `arms`: {arm: {model: {T1, u, s, H}}}, fractions; with several splits each figure is {"mean", "std", "values"},
        std being the sample standard deviation over splits (n - 1). `protocol`: how many splits, how figures were
        chosen, and under `chosen` each split's hyperparameters by arm and model.

    Raises:
        ValueError: no split, or splits that hold different arms or models.
    """
    if not per_split:
        raise ValueError("there is no split to aggregate")
    arms = {arm: list(models) for arm, models in per_split[0].items()}
    for number, split in enumerate(per_split[1:], start=1):
        if {arm: set(models) for arm, models in split.items()} != {arm: set(models) for arm, models in arms.items()}:
            raise ValueError(f"split {number} holds other arms or models than split 0")
    protocol: dict[str, Any] = {
        "class_splits": len(per_split),
        "T1": "mean per-class top-1 of unseen classes; hyperparameters with the best T1 on the validation classes",
        "u_s_H": "mean per-class top-1 with all classes as candidates, calibrated stacking; hyperparameters and "
        "constant with the best H on the validation classes",
        "chosen": {
            arm: {model: [_chosen(split[arm][model]) for split in per_split] for model in models}
            for arm, models in arms.items()
        },
    }
    return {
        "protocol": protocol,
        "arms": {
            arm: {model: _summed([_figures(split[arm][model]) for split in per_split]) for model in models}
            for arm, models in arms.items()
        },
    }


def _figures(result: ModelResult | Figures) -> Figures:
    return result.figures if isinstance(result, ModelResult) else result


def _chosen(result: ModelResult | Figures) -> dict[str, Any]:
    return result.chosen if isinstance(result, ModelResult) else {}


def _summed(figures: list[Figures]) -> dict[str, Any]:
    if len(figures) == 1:
        return dict(figures[0].as_dict())
    out: dict[str, Any] = {}
    for name in FIGURES:
        values = [float(getattr(f, name)) for f in figures]
        out[name] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "values": values}
    return out

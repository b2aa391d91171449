"""The section `tune`: what a tuning campaign searches, how, and by which figure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, model_validator

from vgse.config_section import Section

# Named before a field of the name `int` hides the type.
WholeNumbers = tuple[int, int]


class Domain(Section):
    """The values that a field may take in a campaign; exactly one of these."""

    grid: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Every one of these values."""
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these values at a time; in a grid search the same as `grid`."""
    uniform: tuple[float, float] | None = None
    """A number between these two."""
    loguniform: tuple[float, float] | None = None
    """A number between these two, evenly on a logarithmic scale."""
    int: WholeNumbers | None = None
    """A whole number from the first to the second."""
    logint: WholeNumbers | None = None
    """A whole number from the first to the second, evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if self.values is None and self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"{self.kind}: the first bound must be below the second, not {list(self.bounds)}")
        if self.kind in ("loguniform", "logint") and self.bounds[0] <= 0:
            raise ValueError(f"{self.kind}: bounds must be above 0, not {list(self.bounds)}")
        return self

    @property
    def kind(self) -> str:
        """Which of the fields is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The values of a grid or choice, None of a range."""
        return self.grid or self.choice

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of a range."""
        return getattr(self, self.kind)


class TuneConfig(Section):
    """A tuning campaign (`vgse tune`): trials on cached features, judged on the val classes."""

    space: Annotated[dict[str, Domain], tyro.conf.Suppress] = Field(default_factory=dict)
    """Domains by field, e.g. {cluster.num_clusters: {grid: [50, 150]}, relate.alpha: {uniform: [-0.2, 0]}}; domains are
    grid, choice, uniform, loguniform, int and logint. Given in the file only."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """How trained settings are picked: all combinations, at random, or by Optuna's TPE from the trials so far."""
    trials: int | None = Field(default=None, ge=1)
    """Trained settings in all, over all starts of the campaign (default in a grid search: every combination)."""
    relations: int = Field(default=16, ge=1)
    """Draws of the settings that need no training (relate.*, knowledge.*) where one of them is a range; grids and
    choices alone are scored in every combination. Every trial is scored with each of them."""
    metric: Literal["val_H", "val_T1"] = "val_H"
    """What the best setting has the most of: H or T1 on the val classes, the mean over class splits and folds."""
    model: Literal["eszsl", "prototype", "sje"] = "eszsl"
    """The zero-shot model whose figure that is, one of evaluate.models."""
    class_splits: int | None = Field(default=None, ge=1)
    """Class splits to train and score on, the first of data.class_splits (default: all)."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds after which no trial goes on; the same command continues."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time (default: as many as the CPUs and GPUs hold)."""
    cpus_per_trial: int = Field(default=1, ge=1)
    """CPUs of a trial; many trials of one CPU each get more done than few of many."""
    gpus_per_trial: float | None = Field(default=None, ge=0, le=1)
    """Share of a GPU for each trial, e.g. 0.25 (default: a whole one where the cluster has any)."""
    asha: bool = False
    """Stop trials early whose val figure (of ESZSL in small, on the first class split) is not among the best."""
    grace_epochs: int = Field(default=2, ge=1)
    """Epochs that every trial gets before ASHA may stop it."""
    reduction: float = Field(default=3.0, gt=1)
    """Of the trials that come to each of ASHA's looks one in so many goes on; looks grow apart by the same factor."""

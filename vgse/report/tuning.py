"""The page of a campaign: its best settings, its pictures, its rows."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vgse import __version__
from vgse.report.tuning_figures import figures_by_field, learning_curves, parallel_coordinates, training_cost
from vgse.tuning.results import Campaign, said

# Rows of the page's table; all of them are in trials.parquet.
_SHOWN = 50


def tuning_page(campaign: Campaign, best_uri: str) -> str:
    """One HTML page with nothing to download.

    Args:
        campaign: with at least one ended trial.
        best_uri: where best.yaml is.
    """
    tune, ranked = campaign.space.base.tune, campaign.ranked()
    environment = Environment(loader=PackageLoader("vgse.report", "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("tuning.html.j2").render(
        version=__version__,
        run=campaign.space.base.run,
        metric=campaign.metric,
        model=tune.model,
        counts=_counts(campaign),
        best=ranked[0] if ranked else None,
        best_uri=best_uri,
        fields=campaign.fields,
        rows=ranked[:_SHOWN],
        more=max(0, len(ranked) - _SHOWN),
        others=[record for record in campaign.records if record.status != "done"],
        said=said,
        figures=_figures(campaign),
        seconds=sum(record.training_s for record in campaign.records),
        scoring=sum(record.scoring_s for record in campaign.records),
    )


def _counts(campaign: Campaign) -> dict[str, Any]:
    statuses = [record.status for record in campaign.records]
    return {
        "trials": len(statuses),
        "asked": campaign.space.trials(),
        "relations": len(campaign.relations),
        **{status: statuses.count(status) for status in ("done", "stopped", "failed")},
    }


def _figures(campaign: Campaign) -> list[tuple[str, str, str]]:
    """Title, explanation and SVG of every picture there is something for."""
    metric = campaign.metric
    found = [
        (
            f"{metric} by setting",
            "Where several rows share a cell, their best; in a plot of points the best lie on top.",
            figures_by_field(campaign),
        ),
        (
            "All rows at once",
            f"Every row is a line through its settings and figures, brighter with {metric}; the thick one is the best.",
            parallel_coordinates(campaign),
        ),
        (
            "Learning curves",
            "Figures while training are ESZSL's on few images, so they order trials but are not those of the table. "
            "A cross marks a trial that was stopped or failed.",
            learning_curves(campaign),
        ),
        ("What it costs", "Time of the epochs alone, without reading features and scoring.", training_cost(campaign)),
    ]
    return [each for each in found if each[2]]

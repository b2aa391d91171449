"""What comes of a campaign: a row per trained and scored setting, the best of them, and its configuration."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml
from rich.console import Console
from rich.table import Table

from vgse.config import Config
from vgse.tuning.journal import Record
from vgse.tuning.space import Settings, Space

# Rows of the terminal's table.
_SHOWN = 15


@dataclass(frozen=True)
class Campaign:
    """A campaign as far as it has come: its space, its scored settings in order, and its ended trials by number."""

    space: Space
    relations: list[Settings]
    records: list[Record]

    @property
    def metric(self) -> str:
        """`val_H` or `val_T1`."""
        return self.space.base.tune.metric

    @property
    def fields(self) -> list[str]:
        """Every field of the space, trained ones first."""
        return [*self.space.trained, *self.space.scored]

    def rows(self) -> list[dict[str, Any]]:
        """One row per trial and scored setting, without figures where the trial was stopped or failed."""
        nothing = {"val_T1": None, "val_H": None}
        return [
            {
                "trial": record.number,
                **record.settings,
                **relation,
                **(record.figures[i] if record.status == "done" else nothing),
                "training_s": record.training_s,
                "scoring_s": record.scoring_s,
                "epochs": record.epochs,
                "status": record.status,
                "reason": record.reason,
            }
            for record in self.records
            for i, relation in enumerate(self.relations)
        ]

    def ranked(self) -> list[dict[str, Any]]:
        """The rows with figures, the best first; of equals the first trial."""
        judged = [row for row in self.rows() if row["status"] == "done"]
        return sorted(judged, key=lambda row: -row[self.metric])

    def best(self) -> Settings | None:
        """The settings of the best row, None where no trial was done."""
        ranked = self.ranked()
        return {path: ranked[0][path] for path in self.fields} if ranked else None

    def failed(self) -> list[Record]:
        """The trials that failed."""
        return [record for record in self.records if record.status == "failed"]


def trials_table(campaign: Campaign) -> pa.Table:
    """trials.parquet. A field whose values are not all numbers, or not all text, is a column of JSON."""
    rows = campaign.rows()
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else [])}
    for path in campaign.fields:
        kinds = {type(value) for value in columns.get(path, [])}
        if not (kinds <= {int, float} or kinds <= {str} or kinds <= {bool}):
            columns[path] = [json.dumps(value) for value in columns[path]]
        elif kinds == {int, float}:
            columns[path] = [float(value) for value in columns[path]]
    figures = {"val_T1": pa.float64(), "val_H": pa.float64()}
    return pa.table({name: pa.array(values, figures.get(name)) for name, values in columns.items()})


def best_yaml(campaign: Campaign, run: str, config: Config, on_gpu: bool) -> str:
    """best.yaml: the best settings as a whole configuration for `vgse run`.

    Its resources are those of a trial, since the last digits of a network depend on the number of threads.

    Args:
        campaign: with at least one trial done.
        run: the run directory whose features the best trial was trained on.
        config: the configuration of the best settings.
        on_gpu: whether trials were trained on a GPU.
    """
    tune, best = campaign.space.base.tune, campaign.ranked()[0]
    values = {**config.public_dict(), "run": run}
    values.pop("tune")
    values["resources"] = {"workers": 1, "cpus_per_worker": tune.cpus_per_trial, "use_gpu": on_gpu}
    figure = campaign.metric.removeprefix("val_")
    of_splits = f", mean over the first {tune.class_splits} class splits" if tune.class_splits else ""
    head = (
        f"# The best of {len(campaign.records)} trials: {campaign.metric} of {tune.model} {best[campaign.metric]:.6f} "
        f"(trial {best['trial']}).\n"
        "# vgse run on this file trains the same network and shows the same figure in evaluation.json under\n"
        f"# protocol.chosen.vgse.{tune.model}: {figure}.on_choice{of_splits}. On a GPU the last digits may differ.\n"
    )
    return head + yaml.safe_dump(values, sort_keys=False)


def terminal_table(campaign: Campaign, width: int | None = None) -> str:
    """The best rows, and the trials that were stopped or failed."""
    table = Table(
        title=f"{campaign.metric} of {campaign.space.base.tune.model} on the val classes", title_justify="left"
    )
    for name in ("trial", *(path.rpartition(".")[2] for path in campaign.fields), "val_T1", "val_H", "seconds"):
        table.add_column(name, justify="right")
    ranked = campaign.ranked()
    for row in ranked[:_SHOWN]:
        figures = [f"{100 * row[name]:.2f}" for name in ("val_T1", "val_H")]
        shown = [_shown(row[path]) for path in campaign.fields]
        table.add_row(str(row["trial"]), *shown, *figures, f"{row['training_s']:.1f}")
    sink = io.StringIO()
    console = Console(file=sink, width=width or max(100, 14 * len(table.columns)))
    console.print(table)
    lines = [sink.getvalue().rstrip()]
    if len(ranked) > _SHOWN:
        lines.append(f"and {len(ranked) - _SHOWN} more in trials.parquet")
    for record in campaign.records:
        if record.status != "done":
            lines.append(f"trial {record.number} {record.status} ({said(record.settings)}): {record.reason}")
    return "\n".join(lines)


def said(settings: Mapping[str, Any], fields: Sequence[str] | None = None) -> str:
    """Settings in a few words, e.g. `num_clusters 50, alpha -0.1`."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {_shown(value)}" for path, value in settings.items() if not fields or path in fields
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

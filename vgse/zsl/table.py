"""The arms side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vgse.zsl.summary import FIGURES


def results_table(arms: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str = "") -> Table:
    """A rich table: one row per arm (VGSE first, oracle last), T1 u s H of every model in percent.

    Args:
        arms: as in evaluation.json: {arm: {model: {figure: number or {"mean", "std", "values"}}}}.
        title: above the table.
    """
    models = list(dict.fromkeys(model for figures in arms.values() for model in figures))
    table = Table(title=title or None, title_justify="left")
    table.add_column("arm", no_wrap=True)
    for model in models:
        for number, name in enumerate(FIGURES):
            head = f"{model.upper()}\n{name}" if number == 0 else f"\n{name}"
            table.add_column(head, justify="right", no_wrap=True)
    for arm in sorted(arms, key=lambda arm: {"vgse": 0, "oracle": 2}.get(arm, 1)):
        cells = [_percent(arms[arm].get(model, {}).get(name)) for model in models for name in FIGURES]
        table.add_row(arm, *cells, style="bold" if arm == "vgse" else None)
    return table


def results_text(arms: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str = "", width: int = 160) -> str:
    """`results_table` as plain text, for logs and files."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(results_table(arms, title))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _percent(figure: Any) -> str:
    if figure is None:
        return "-"
    if isinstance(figure, Mapping):
        return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"
    return f"{100 * figure:.1f}"

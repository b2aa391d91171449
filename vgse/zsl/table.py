"""The arms side by side and what may be said of them, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vgse.zsl.comparisons import COMPARED_FIGURES, Comparison, signless_zero
from vgse.zsl.controls import WORD_ARMS
from vgse.zsl.mode import AS_PUBLISHED_TITLE, Mode, title_prefix
from vgse.zsl.summary import FIGURES

Arms = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""As in evaluation.json: {arm: {model: {figure: number or {"mean", "std", "values"}}}}."""


def evaluation_text(summary: Mapping[str, Any], width: int = 160) -> str:
    """The table of an evaluation.json with the comparisons below it, under a title that tells how choices were made.

    Args:
        summary: the content of evaluation.json.
        width: columns of the terminal.
    """
    protocol = summary["protocol"]
    splits, seeds, mode = protocol["class_splits"], protocol["seeds"], protocol["mode"]
    said = f"{splits} class split{'s' if splits > 1 else ''}{f' x {seeds} seeds' if seeds > 1 else ''}"
    title = f"Zero-shot figures in percent, {said}{', mean ± std' if splits * seeds > 1 else ''}"
    lines = comparison_lines(summary.get("comparisons", ()))
    below = "\n" + "\n".join(lines) + "\n" if lines else ""
    return results_text(summary["arms"], title, width, mode) + below


def results_table(arms: Arms, title: str = "", mode: Mode = "honest", *, tight: bool = False) -> Table:
    """A rich table: one row per arm (VGSE first, oracle last), T1 u s H of every model in percent.

    Args:
        arms: the figures.
        title: above the table.
        mode: of the evaluation; `as-published` is told in the title.
        tight: no blanks around ±.
    """
    models = list(dict.fromkeys(model for figures in arms.values() for model in figures))
    table = Table(title=(title_prefix(mode) + title) or None, title_justify="left")
    table.add_column("arm", no_wrap=True)
    for model in models:
        for number, name in enumerate(FIGURES):
            head = f"{model.upper()}\n{name}" if number == 0 else f"\n{name}"
            table.add_column(head, justify="right", no_wrap=True)
    for arm in sorted(arms, key=lambda arm: {"vgse": 0, "oracle": 2}.get(arm, 1)):
        cells = [_percent(arms[arm].get(model, {}).get(name), tight) for model in models for name in FIGURES]
        table.add_row(arm, *cells, style="bold" if arm == "vgse" else None)
    return table


def results_tables(arms: Arms, title: str = "", width: int = 160, mode: Mode = "honest") -> list[Table]:
    """One table of all models where it fits into `width` columns (if need be without blanks), else one per model."""
    console = Console(width=10_000)
    for tight in (False, True):
        table = results_table(arms, title, mode, tight=tight)
        # A title breaks into lines; only the columns must fit.
        bare = results_table(arms, tight=tight)
        if console.measure(bare).maximum <= width:
            return [table]
    models = dict.fromkeys(model for figures in arms.values() for model in figures)
    one_each = [{arm: {model: figures[model]} for arm, figures in arms.items() if model in figures} for model in models]
    return [results_table(of_model, title, mode) for of_model in one_each]


def results_text(arms: Arms, title: str = "", width: int = 160, mode: Mode = "honest") -> str:
    """`results_tables` as plain text, for logs and files."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for table in results_tables(arms, title, width, mode):
            console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def comparison_lines(comparisons: Sequence[Comparison | Mapping[str, Any]]) -> list[str]:
    """The comparisons in short: for each arm one aligned line per control and model, T1 and H side by side.

    Of the word arms only the best is shown: the one with the highest T1, model by model.

    Args:
        comparisons: as `compare` returns them or evaluation.json holds them; where their sentences say that they were
            chosen on the test set, the heading does too.
    """
    found = [c if isinstance(c, Comparison) else Comparison(**c) for c in comparisons]
    if not found:
        return []
    differences = {(c.arm, c.model, c.against, c.figure): c for c in found}
    resampled = "class splits and classes resampled" if found[0].splits > 1 else "one class split, classes resampled"
    label = AS_PUBLISHED_TITLE if found[0].sentence.startswith(AS_PUBLISHED_TITLE) else ""
    lines = [f"{label}Differences in percentage points with 95 % intervals ({resampled})"]
    longest = max(len(c.against) for c in found)
    for arm, model in dict.fromkeys((c.arm, c.model) for c in found):
        lines.append(f"{'VGSE' if arm == 'vgse' else arm} in {model.upper()} over")
        others = dict.fromkeys(c.against for c in found if (c.arm, c.model) == (arm, model))
        words = [other for other in others if other in WORD_ARMS]
        best = min(words, key=lambda other: differences[arm, model, other, "T1"].difference, default=None)
        for other in others:
            if other in words and other != best:
                continue
            cells = [_cell(differences[arm, model, other, figure]) for figure in COMPARED_FIGURES]
            lines.append(f"  {other:<{longest}}  {'  '.join(cells)}".rstrip())
    return lines


def _cell(comparison: Comparison) -> str:
    size, low, high = (
        signless_zero(f"{points:+.1f}") for points in (comparison.difference, comparison.low, comparison.high)
    )
    return f"{comparison.figure} {size:>5} [{low:>5}, {high:>5}] {comparison.verdict:<19}"


def _percent(figure: Any, tight: bool = False) -> str:
    if figure is None:
        return "-"
    if isinstance(figure, Mapping):
        between = "±" if tight else " ± "
        return f"{100 * figure['mean']:.1f}{between}{100 * figure['std']:.1f}"
    return f"{100 * figure:.1f}"

"""The pictures of a campaign, each an SVG text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vgse.tuning.results import Campaign

_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "vgse", "font.family": "sans-serif", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.labelcolor": "#333333",
    "xtick.color": "#555555", "ytick.color": "#555555", "axes.grid": False, "legend.frameon": False,
}  # fmt: skip
_BEHIND_TEXT = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75}
# Up to so many values an axis of the heat map has a cell for each; beyond, and in ranges, points show what was tried.
_CELLS = 24
# Up to so many rows or columns cells carry their figure.
_WRITTEN = 14
_CURVES = 40


def figures_by_field(campaign: Campaign) -> str:
    """The metric over two fields of the space: D_v by alpha where both were searched."""
    rows, fields = campaign.ranked(), _varied(campaign)
    with rc_context(_STYLE):
        if len(fields) < 2:
            return _over_one(campaign, rows, fields[0]) if fields else ""
        y_field, x_field = _pair(campaign, fields)
        xs, ys = (_places(row[field] for row in rows) for field in (x_field, y_field))
        drawn = any(campaign.space.base.tune.space[field].values is None for field in (x_field, y_field))
        if drawn or max(len(xs), len(ys)) > _CELLS:
            return _points(campaign, rows, x_field, y_field)
        best_YX = np.full((len(ys), len(xs)), np.nan)
        for row in rows:
            at = ys.index(row[y_field]), xs.index(row[x_field])
            best_YX[at] = np.nanmax([best_YX[at], 100 * row[campaign.metric]])
        figure = Figure(figsize=(min(11, 2.6 + 0.8 * len(xs)), min(9, 1.6 + 0.5 * len(ys))), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(best_YX, cmap="viridis", aspect="auto")
        long = max(len(_text(x)) for x in xs) > 9
        axes.set_xticks(
            range(len(xs)), [_text(x) for x in xs], rotation=30 if long else 0, ha="right" if long else "center"
        )
        axes.set_yticks(range(len(ys)), [_text(y) for y in ys])
        axes.set(xlabel=x_field, ylabel=y_field)
        axes.spines[:].set_visible(False)
        if max(len(xs), len(ys)) <= _WRITTEN:
            _write_cells(axes, best_YX)
        _bar(figure, image, f"{campaign.metric} (%)", axes)
        return _svg(figure)


def parallel_coordinates(campaign: Campaign) -> str:
    """Every row as a line through its settings and figures, coloured by the metric; the best on top."""
    rows, fields = campaign.ranked(), _varied(campaign)
    if not rows or not fields:
        return ""
    names = [*fields, *(["val_T1"] if campaign.metric == "val_H" else []), campaign.metric]
    with rc_context(_STYLE):
        figure = Figure(figsize=(min(12, 2.2 + 1.9 * len(names)), 4.2), layout="constrained")
        axes = figure.subplots()
        columns = [_column([row[name] for row in rows], name) for name in names]
        colours, norm = _colours([row[campaign.metric] for row in rows])
        heights = np.array([heights for heights, _ in columns]).T
        for row, line in reversed(list(zip(rows, heights, strict=True))):
            best = row is rows[0]
            axes.plot(
                range(len(names)), line, color=colours(norm(row[campaign.metric])),
                lw=3 if best else 1.2, alpha=1 if best else 0.6, zorder=3 if best else 2,
            )  # fmt: skip
        for place, (_, ticks) in enumerate(columns):
            axes.axvline(place, color="#bbbbbb", lw=1, zorder=1)
            for height, text in ticks:
                axes.annotate(
                    text, (place, height), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
                    color="#222222", zorder=4, bbox=_BEHIND_TEXT,
                )  # fmt: skip
        axes.set_xticks(range(len(names)), [name.replace(".", ".\n") for name in names])
        axes.set_yticks([])
        axes.set(xlim=(-0.15, len(names) - 0.55), ylim=(-0.06, 1.06))
        axes.spines[:].set_visible(False)
        return _svg(figure)


def learning_curves(campaign: Campaign) -> str:
    """Loss, and the val figure where training looked at it, by epoch; stopped trials end in a cross."""
    records = [record for record in campaign.records if record.curve][:_CURVES]
    if not records:
        return ""
    looked = any(campaign.metric in point for record in records for point in record.curve)
    key = next(
        (path for path in ("cluster.num_clusters", *campaign.space.trained) if path in campaign.space.trained), None
    )
    numeric = key is not None and all(_is_number(record.settings[key]) for record in records)
    with rc_context(_STYLE):
        figure = Figure(figsize=(10 if looked else 6, 3.8), layout="constrained")
        panels = figure.subplots(1, 1 + looked, squeeze=False)[0]
        values = [record.settings[key] if numeric and key else i for i, record in enumerate(records)]
        colours, norm = _colours(values)
        for record, value in zip(records, values, strict=True):
            for axes, name, unit in zip(panels, ("loss", campaign.metric), (1.0, 100.0), strict=False):
                shown = [(point["epoch"], unit * point[name]) for point in record.curve if name in point]
                if not shown:
                    continue
                x, y = zip(*shown, strict=True)
                axes.plot(x, y, color=colours(norm(value)), lw=1.5, marker="o" if name != "loss" else None, ms=3)
                if record.status != "done":
                    axes.plot(x[-1], y[-1], "x", color=colours(norm(value)), ms=7, mew=2)
        for axes in panels:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set(xlabel="epoch", ylabel="loss")
        if looked:
            panels[1].set(xlabel="epoch", ylabel=f"{campaign.metric} while training (%)")
        if numeric and key and len(set(values)) > 1:
            _bar(figure, ScalarMappable(norm, colours), key, list(panels))
        return _svg(figure)


def training_cost(campaign: Campaign) -> str:
    """Seconds of training by D_v, or by the first other number that trials differ in."""
    done = [record for record in campaign.records if record.status == "done" and record.training_s > 0]
    paths = [path for path in ("cluster.num_clusters", *campaign.space.trained) if path in campaign.space.trained]
    key = next((path for path in paths if all(_is_number(record.settings[path]) for record in done)), None)
    if not done or key is None:
        return ""
    with rc_context(_STYLE):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.subplots()
        x = [record.settings[key] for record in done]
        axes.plot(x, [record.training_s for record in done], "o", color="#31688e", ms=6)
        axes.set(xlabel=key, ylabel="seconds of training a trial")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        return _svg(figure)


def _over_one(campaign: Campaign, rows: Sequence[dict[str, Any]], field: str) -> str:
    places = _places(row[field] for row in rows)
    numeric = all(_is_number(value) for value in places)
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    x = [row[field] if numeric else places.index(row[field]) for row in rows]
    axes.plot(x, [100 * row[campaign.metric] for row in rows], "o", color="#31688e")
    if not numeric:
        axes.set_xticks(range(len(places)), [_text(value) for value in places])
    axes.set(xlabel=field, ylabel=f"{campaign.metric} (%)")
    return _svg(figure)


def _points(campaign: Campaign, rows: Sequence[dict[str, Any]], x_field: str, y_field: str) -> str:
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    found: list[list[float]] = []
    for field, axis, scale in ((x_field, axes.xaxis, axes.set_xscale), (y_field, axes.yaxis, axes.set_yscale)):
        # The best are drawn last.
        values = [row[field] for row in reversed(rows)]
        places = _places(values)
        if all(_is_number(value) for value in places):
            found.append(values)
            if campaign.space.base.tune.space[field].kind.startswith("log"):
                scale("log")
        else:
            found.append([places.index(value) for value in values])
            axis.set_ticks(range(len(places)), [_text(value) for value in places])
    colours = [100 * row[campaign.metric] for row in reversed(rows)]
    x, y = found
    points = axes.scatter(x, y, c=colours, cmap="viridis", s=36)
    axes.set(xlabel=x_field, ylabel=y_field)
    _bar(figure, points, f"{campaign.metric} (%)", axes)
    return _svg(figure)


def _write_cells(axes: Axes, values_YX: np.ndarray) -> None:
    middle = (np.nanmin(values_YX) + np.nanmax(values_YX)) / 2
    for (y, x), value in np.ndenumerate(values_YX):
        best = value == np.nanmax(values_YX)
        if np.isfinite(value):
            colour = "#111111" if value > middle else "white"
            weight = "bold" if best else "normal"
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9, fontweight=weight)


def _varied(campaign: Campaign) -> list[str]:
    """Fields of which more than one value was judged."""
    rows = campaign.ranked()
    return [path for path in campaign.fields if len(_places(row[path] for row in rows)) > 1]


def _pair(campaign: Campaign, fields: list[str]) -> tuple[str, str]:
    """The fields of the heat map's rows and columns: D_v and alpha where they are among them."""
    first = "cluster.num_clusters" if "cluster.num_clusters" in fields else fields[0]
    others = [path for path in fields if path != first]
    scored = [path for path in others if path in campaign.space.scored]
    second = "relate.alpha" if "relate.alpha" in others else (scored or others)[0]
    return first, second


def _places(values: Iterable[Any]) -> list[Any]:
    """Distinct values: numbers by size, others as they come."""
    found = list({repr(value): value for value in values}.values())
    return sorted(found) if all(_is_number(value) for value in found) else found


def _column(values: list[Any], name: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in 0..1 of values on an axis, and its marks: few values one each, many numbers their ends."""
    places = _places(values)
    few = len(places) <= 8
    if few and not name.startswith("val_"):
        height = {repr(value): i / max(1, len(places) - 1) for i, value in enumerate(places)}
        return [height[repr(value)] for value in values], [(height[repr(value)], _text(value)) for value in places]
    numbers = np.array(values if all(_is_number(v) for v in values) else [places.index(v) for v in values], float)
    if numbers.min() > 0 and numbers.max() / numbers.min() > 30:
        numbers = np.log(numbers)
    low, high = float(numbers.min()), float(numbers.max())
    heights = ((numbers - low) / ((high - low) or 1.0)).tolist()
    if name.startswith("val_"):
        return heights, [(0.0, f"{100 * places[0]:.1f} %"), (1.0, f"{100 * places[-1]:.1f} %")]
    ends = [(0.0, places[0]), (1.0, places[-1])] if high > low else [(0.0, places[0])]
    return heights, [(height, _text(value)) for height, value in ends]


def _colours(values: Sequence[float]) -> tuple[Colormap, Normalize]:
    low, high = min(values), max(values)
    return colormaps["viridis"], Normalize(low, high if high > low else low + 1)


def _bar(figure: Figure, coloured: ScalarMappable, label: str, beside: Any) -> None:
    outline: Any = figure.colorbar(coloured, ax=beside, label=label).outline
    outline.set_visible(False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    text = sink.getvalue()
    return text[text.index("<svg") :]

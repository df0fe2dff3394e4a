"""Score against what it costs: lines of settings or of an axis' labels, and the Pareto front."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np

from lightkv.lab.reporting.drawing import (
    DASHES,
    PALETTE,
    SYMBOLS,
    Json,
    faint,
    figure,
    lines_by,
    unit,
)
from lightkv.lab.reporting.formatting import axes_text, figure_text, interval_text, setting_text
from lightkv.lab.reporting.front import front
from lightkv.lab.reporting.study import Group, Row
from lightkv.lab.stats import Estimate

FEW = 8
"""Settings up to which each has its own band."""
Cost = Callable[[Row], float | None]
Point = tuple[float, Estimate]
COSTS: dict[str, tuple[str, Cost]] = {
    "retention": ("achieved retention (share of vision KV)", lambda row: row.cell.retention),
    "flops": ("prefill FLOPs, relative to the uncompressed model", lambda row: row.cell.flops),
}


def quality(group: Group, axis: str | None, cost: str) -> Json:
    """Score against a cost: a line for each setting, or for each label of an axis.

    A line of an axis is the mean of the settings with that label, which are drawn thin below it.
    """
    title, read = COSTS[cost]
    rows = [row for row in group.rows if not row.plain and read(row) is not None]
    settings = lines_by(rows, lambda row: setting_text(row.setting))
    best = front([(read(row), row.score.value) for row in rows if row.score])
    traces: list[Json] = []
    if axis is None:
        on_front = {setting_text(rows[number].setting) for number in best}
        points = _points(group, list(settings.values()), read)
        for number, (name, line) in enumerate(zip(settings, points, strict=True)):
            shown = len(settings) <= FEW or name in on_front
            lines = _line(group, name, line, number, band=shown)
            if not shown:  # many names would bury the plot: these are told by hovering
                lines[1] |= {"showlegend": False, "opacity": 0.55}
                lines[1]["line"]["width"] = 1.2
            traces += lines
    else:
        # With repeats: each label is averaged over the whole grid.
        design = [row for row in group.design if not row.plain and read(row) is not None]
        labels = lines_by([r for r in design if axis in r.setting], lambda row: row.setting[axis])
        for number, members in enumerate(labels.values()):
            for text, own in lines_by(members, lambda row: setting_text(row.setting)).items():
                traces.append(_thin(group, text, own, read, number))
        points = _points(group, list(labels.values()), read)
        for number, (name, line) in enumerate(zip(labels, points, strict=True)):
            traces += _line(group, name, line, number, band=True, width=3)
    chosen = sorted((rows[number] for number in best), key=lambda row: read(row) or 0.0)
    traces.append(
        {
            "type": "scatter",
            "name": "Pareto front",
            "x": [read(row) for row in chosen],
            "y": [_score(group, row.score) for row in chosen],
            "text": [html.escape(row.cell.name) for row in chosen],
            "mode": "lines+markers",
            "line": {"shape": "hv", "dash": "dot", "width": 1.5},
            "marker": {"symbol": "circle-open", "size": 13, "line": {"width": 2}},
            "hovertemplate": "Pareto front: %{text}<extra></extra>",
            "meta": "ink",
        }
    )
    return figure(
        traces,
        xaxis={"title": {"text": title}, "tickformat": ".2f"},
        yaxis={"title": {"text": _quality_title(group)}},
        legend={"title": {"text": html.escape(axis or axes_text([row.setting for row in rows]))}},
        **_vanilla(group),
    )


def _points(group: Group, lines: Sequence[list[Row]], read: Cost) -> list[list[Point]]:
    """Each line's points, by cost: the mean of its rows at each retention."""
    parts = [list(lines_by(rows, lambda row: row.retention).values()) for rows in lines]
    scores = iter(group.estimates([(rows, []) for line in parts for rows in line]))
    found = [[(_cost(rows, read), next(scores)) for rows in line] for line in parts]
    return [sorted(line, key=lambda point: point[0]) for line in found]


def _cost(rows: list[Row], read: Cost) -> float:
    return float(np.mean([read(row) for row in rows]))


def _line(
    group: Group, name: str, points: list[Point], number: int, *, band: bool, width: int = 2
) -> list[Json]:
    """A line with its 95 % band."""
    color = PALETTE[number % len(PALETTE)]
    x = [cost for cost, _ in points]
    low, mid, high = (
        [unit(group, getattr(point, part)) for _, point in points]
        for part in ("low", "value", "high")
    )
    shade = {
        "type": "scatter",
        "name": html.escape(name),
        "x": [*x, *x[::-1]],
        "y": [*high, *low[::-1]],
        "mode": "lines",
        "line": {"width": 0, "color": color},
        "fill": "toself",
        "fillcolor": faint(color),
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": f"line {number}",
        "visible": band,
        "meta": "band" if band else "more band",
    }
    line = {
        "type": "scatter",
        "name": html.escape(name),
        "x": x,
        "y": mid,
        "text": [interval_text(group.share, point) for _, point in points],
        "mode": "lines+markers",
        "line": {"color": color, "width": width, "dash": DASHES[number // len(PALETTE) % 4]},
        "marker": {
            "color": color,
            "size": 5 + width,
            "symbol": SYMBOLS[(number + number // len(PALETTE)) % len(SYMBOLS)],
        },
        "legendgroup": f"line {number}",
        "hovertemplate": "%{fullData.name}<br>%{text} at %{x:.3f}<extra></extra>",
    }
    return [shade, line]


def _thin(group: Group, name: str, rows: list[Row], read: Cost, number: int) -> Json:
    points = sorted(
        (_cost(members, read), unit(group, group.average(members)))
        for members in lines_by(rows, lambda row: row.retention).values()
    )
    return {
        "type": "scatter",
        "name": html.escape(name),
        "x": [cost for cost, _ in points],
        "y": [score for _, score in points],
        "mode": "lines+markers",
        "line": {"color": PALETTE[number % len(PALETTE)], "width": 1},
        "marker": {"size": 3},
        "opacity": 0.38,
        "showlegend": False,
        "legendgroup": f"line {number}",
        "hovertemplate": "%{fullData.name}: %{y}<extra></extra>",
    }


def _vanilla(group: Group) -> Json:
    """The uncompressed model as a line across, with its band."""
    row = group.vanilla
    if row is None or row.score is None:
        return {}
    low, mid, high = (unit(group, v) for v in (row.score.low, row.score.value, row.score.high))
    across = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    band = {**across, "y0": low, "y1": high, "line": {"width": 0}, "fillcolor": faint("#808080")}
    line = {**across, "type": "line", "y0": mid, "y1": mid}
    line["line"] = {"color": "#808080", "width": 1.5, "dash": "longdash"}
    note = {"xref": "paper", "x": 0.01, "xanchor": "left", "y": mid, "yanchor": "bottom"}
    note |= {
        "text": f"uncompressed {figure_text(row.score.value, share=group.share)}",
        "showarrow": False,
    }
    return {"shapes": [band, line], "annotations": [note]}


def _quality_title(group: Group) -> str:
    return "score (%)" if group.share else "score (log-likelihood)"


def _score(group: Group, score: Estimate | None) -> float | None:
    return None if score is None else unit(group, score.value)

"""The page's plots, as plotly figures in plain data. Colours of text and grid are the page's.

Texts that come from a grid are escaped: plotly reads a subset of HTML in its labels.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightkv.lab.reporting.effects import Effect
from lightkv.lab.reporting.formatting import (
    axes_text,
    figure_text,
    interval_text,
    setting_text,
    short,
)
from lightkv.lab.reporting.front import front
from lightkv.lab.reporting.study import VANILLA, Group, Row, Study
from lightkv.lab.stats import Estimate

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#9A6324", "#7F7F7F")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; brown and grey for the rest."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
MANY = 8
"""Lines of the token plot from which on they are named by retention only."""
FEW = 8
"""Settings up to which each has its own band."""
Json = dict[str, Any]
Point = tuple[float, Estimate]
COSTS = {
    "retention": "achieved retention (share of vision KV)",
    "flops": "prefill FLOPs, relative to the uncompressed model",
}
"""Field of a cell → title of its axis."""


def figures(study: Study, group: Group, effects: Sequence[Effect]) -> Json:
    """All plots of a group: name → figure, or name → choice → figure."""
    views = {"each setting": None, **{f"by {axis}": axis for axis in study.axes}}
    return {
        "quality": {
            name: {cost: quality(group, axis, cost) for cost in COSTS}
            for name, axis in views.items()
        },
        "effects": main_effects(group, effects) if effects else None,
        "tokens": tokens(group),
        "settings": axes_text([row.setting for row in group.rows if not row.plain]),
        "kinds": (kinds(group) or None) if group.kinds else None,
    }


def main_effects(group: Group, effects: Sequence[Effect]) -> Json:
    """Differences to each axis' first label, one row for each label, one mark for each retention."""
    rows = list(dict.fromkeys((effect.axis, effect.label, effect.first) for effect in effects))
    levels = group.levels
    traces = []
    for number, level in enumerate(levels):
        own = [effect for effect in effects if effect.retention == level]
        offset = 0.62 * ((number + 0.5) / len(levels) - 0.5)
        places = [rows.index((each.axis, each.label, each.first)) + offset for each in own]
        color = {} if level is None else {"color": PALETTE[(number - 1) % len(PALETTE)]}
        value = [_unit(group, effect.change.value) for effect in own]
        traces.append(
            {
                "type": "scatter",
                "name": "all retentions" if level is None else f"retention {html.escape(level)}",
                "mode": "markers",
                "x": value,
                "y": places,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [_unit(group, e.change.high - e.change.value) for e in own],
                    "arrayminus": [_unit(group, e.change.value - e.change.low) for e in own],
                    "thickness": 2.5 if level is None else 1.5,
                    "width": 0,
                    **color,
                },
                "marker": {
                    "size": 11 if level is None else 8,
                    "symbol": SYMBOLS[(number + 1) % len(SYMBOLS)] if number else "diamond",
                    **color,
                },
                "text": [
                    f"{html.escape(e.axis)}: {html.escape(e.label)} − {html.escape(e.first)}<br>"
                    f"{interval_text(group.share, e.change, signed=True)}, {e.pairs} pairs of cells"
                    for e in own
                ],
                "hovertemplate": "%{text}",
                **({"meta": "ink"} if level is None else {}),
            }
        )
    ticks = [
        f"<b>{html.escape(axis)}</b>: {html.escape(short(label, 26))}<br>"
        f"instead of {html.escape(short(first, 26))}"
        for axis, label, first in rows
    ]
    measure = "points" if group.share else "log-likelihood"
    return figure(
        traces,
        xaxis={"title": {"text": f"change in score ({measure})"}, "zeroline": True},
        yaxis=_rows_axis(ticks),
        height=170 + 60 * len(rows),
        margin={"t": 60, "r": 14, "b": 60, "l": 60},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def tokens(group: Group) -> Json | None:
    """Vision tokens in each layer's cache; cells that keep the same tokens share a line."""
    found: dict[tuple[float, ...], list[Row]] = {}
    for row in group.rows:
        if row.cell.tokens:
            found.setdefault(tuple(round(count, 1) for count in row.cell.tokens), []).append(row)
    if not found:
        return None
    traces = []
    seen: set[str] = set()
    for number, (counts, rows) in enumerate(found.items()):
        name, place = _common(rows, group), number - 1
        if len(found) > MANY and not rows[0].plain:
            # One name and colour for each retention; hovering tells which cells a line belongs to.
            place = group.retentions.index(rows[0].retention)
            name = f"retention {rows[0].retention}"
        color, dash = PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE) % len(DASHES)]
        line = {"color": color, "dash": dash}
        if rows[0].plain:
            line = {"color": "#808080", "dash": "longdash"}
        # Half a layer further: a step is as wide as its layer.
        traces.append(
            {
                "type": "scatter",
                "name": html.escape(name),
                "legendgroup": html.escape(name),
                "showlegend": name not in seen,
                "x": [*(layer - 0.5 for layer in range(len(counts))), len(counts) - 0.5],
                "y": [*counts, counts[-1]],
                "customdata": [*range(len(counts)), len(counts) - 1],
                "text": html.escape(_common(rows, group)),
                "mode": "lines",
                "line": {**line, "shape": "hv", "width": 2 if len(found) <= MANY else 1.5},
                "hovertemplate": "layer %{customdata}: %{y:.1f} tokens<br>%{text}<extra></extra>",
            }
        )
        seen.add(name)
    return figure(
        traces,
        xaxis={"title": {"text": "decoder layer"}, "zeroline": False, "tickformat": "d"},
        yaxis={"title": {"text": "vision tokens in the cache"}, "rangemode": "tozero"},
    )


def kinds(group: Group) -> Json:
    """Retention → measure → heat map of settings and kinds of question."""
    found: dict[str, Json] = {}
    for retention in group.retentions:
        rows = [row for row in group.rows if row.plain or row.retention == retention]
        label = f"retention {retention}" if retention else "all cells"
        found[label] = {"score": _heat(group, rows, changes=False)}
        if any(row.base for row in rows):
            found[label]["difference to baseline"] = _heat(group, rows, changes=True)
    return found


def _heat(group: Group, rows: list[Row], *, changes: bool) -> Json:
    if changes:
        rows = [row for row in rows if row.base is not None]
    names = [html.escape(_without_retention(row)) for row in rows]
    cells = [[row.kinds[kind] for kind in group.kinds] for row in rows]
    shown = [[each.change if changes else each.score for each in line] for line in cells]
    values = [[None if e is None else _unit(group, e.value) for e in line] for line in shown]
    most = max((abs(v) for line in values for v in line if v is not None), default=1.0) or 1.0
    text = [
        [
            ""
            if e is None
            else figure_text(e.value, share=group.share, signed=changes)
            + ("*" if changes and e.clear else "")
            for e in line
        ]
        for line in shown
    ]
    hover = [
        [
            f"{names[r]}<br>{html.escape(kind)}: "
            + ("" if e is None else interval_text(group.share, e, signed=changes))
            + f"<br>{cells[r][c].samples} samples"
            for c, (kind, e) in enumerate(zip(group.kinds, line, strict=True))
        ]
        for r, line in enumerate(shown)
    ]
    scale = {"colorscale": "Cividis"}
    if changes:
        blue_white_orange = [[0, "#B35806"], [0.5, "#F7F7F7"], [1, "#2166AC"]]
        scale = {"colorscale": blue_white_orange, "zmin": -most, "zmax": most}  # type: ignore[dict-item]
    trace = {
        "type": "heatmap",
        "x": [html.escape(kind) for kind in group.kinds],
        "y": list(range(len(rows))),
        "z": values,
        "text": text,
        "texttemplate": "%{text}",
        "customdata": hover,
        "hovertemplate": "%{customdata}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        **scale,
    }
    return figure(
        [trace],
        xaxis={"side": "top", "type": "category", "showgrid": False},
        yaxis=_rows_axis(names),
        height=70 + 25 * len(rows),
        margin={"t": 40, "r": 10, "b": 10, "l": 10},
    )


def _common(rows: list[Row], group: Group) -> str:
    """What cells have in common that not all cells have."""
    if rows[0].plain:
        return VANILLA
    compressed = [row for row in group.rows if not row.plain]
    first = rows[0].cell.factors
    shared = [
        f"{key} {label}"
        for key, label in first.items()
        if all(row.cell.factors.get(key) == label for row in rows)
        and any(row.cell.factors.get(key) != label for row in compressed)
    ]
    count = f" ({len(rows)} cells)" if len(rows) > 1 else ""
    return short(", ".join(shared) or "compressed", 60) + count


def _without_retention(row: Row) -> str:
    seed = row.cell.factors.get("seed")
    text = setting_text(row.setting)
    return f"{text} / seed {seed}" if seed not in (None, "0") else text


# -- quality and what it costs ---------------------------------------------------------------------


def quality(group: Group, axis: str | None, cost: str) -> Json:
    """Score against a cost: a line for each setting, or for each label of an axis.

    A line of an axis is the mean of the settings with that label, which are drawn thin below it.
    """

    def read(row: Row) -> Any:
        return getattr(row.cell, cost)

    rows = [row for row in group.rows if not row.plain and read(row) is not None]
    settings = _lines_by(rows, lambda row: setting_text(row.setting))
    best = front([(read(row), row.score.value) for row in rows if row.score])
    traces: list[Json] = []
    if axis is None:
        on_front = {setting_text(rows[number].setting) for number in best}
        points = _points(group, list(settings.values()), cost)
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
        labels = _lines_by([r for r in design if axis in r.setting], lambda row: row.setting[axis])
        for number, members in enumerate(labels.values()):
            for text, own in _lines_by(members, lambda row: setting_text(row.setting)).items():
                traces.append(_thin(group, text, own, cost, number))
        points = _points(group, list(labels.values()), cost)
        for number, (name, line) in enumerate(zip(labels, points, strict=True)):
            traces += _line(group, name, line, number, band=True, width=3)
    chosen = sorted((rows[number] for number in best), key=lambda row: read(row) or 0.0)
    traces.append(
        {
            "type": "scatter",
            "name": "Pareto front",
            "x": [read(row) for row in chosen],
            "y": [_unit(group, row.score.value) for row in chosen if row.score],
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
        xaxis={"title": {"text": COSTS[cost]}, "tickformat": ".2f"},
        yaxis={"title": {"text": f"score ({'%' if group.share else 'log-likelihood'})"}},
        legend={"title": {"text": html.escape(axis or axes_text([row.setting for row in rows]))}},
        **_vanilla(group),
    )


def _points(group: Group, lines: Sequence[list[Row]], cost: str) -> list[list[Point]]:
    """Each line's points, by cost: the mean of its rows at each retention."""
    parts = [list(_lines_by(rows, lambda row: row.retention).values()) for rows in lines]
    scores = iter(group.estimates([(rows, []) for line in parts for rows in line]))
    found = [[(_cost(rows, cost), next(scores)) for rows in line] for line in parts]
    return [sorted(line, key=lambda point: point[0]) for line in found]


def _cost(rows: list[Row], cost: str) -> float:
    return float(np.mean([getattr(row.cell, cost) for row in rows]))


def _line(
    group: Group, name: str, points: list[Point], number: int, *, band: bool, width: int = 2
) -> list[Json]:
    """A line with its 95 % band."""
    color = PALETTE[number % len(PALETTE)]
    x = [cost for cost, _ in points]
    low, mid, high = (
        [_unit(group, getattr(point, part)) for _, point in points]
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
        "fillcolor": _faint(color),
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


def _thin(group: Group, name: str, rows: list[Row], cost: str, number: int) -> Json:
    points = sorted(
        (_cost(members, cost), _unit(group, group.average(members)))
        for members in _lines_by(rows, lambda row: row.retention).values()
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
    low, mid, high = (_unit(group, v) for v in (row.score.low, row.score.value, row.score.high))
    across = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    band = {**across, "y0": low, "y1": high, "line": {"width": 0}, "fillcolor": _faint("#808080")}
    line = {**across, "type": "line", "y0": mid, "y1": mid}
    line["line"] = {"color": "#808080", "width": 1.5, "dash": "longdash"}
    note = {"xref": "paper", "x": 0.01, "xanchor": "left", "y": mid, "yanchor": "bottom"}
    note |= {
        "text": f"uncompressed {figure_text(row.score.value, share=group.share)}",
        "showarrow": False,
    }
    return {"shapes": [band, line], "annotations": [note]}


# -- shared ----------------------------------------------------------------------------------------


def _rows_axis(names: list[str]) -> Json:
    """An axis with a name for each row, the first on top.

    Places are numbers, because two categories of the same text would be one.
    """
    return {
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [len(names) - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
    }


def figure(traces: list[Json], **layout: Any) -> Json:
    """Checked by plotly, then plain data; `meta: "ink"` marks what takes the colour of text."""
    import plotly.graph_objects as go

    common = {"template": "none", "margin": {"t": 24, "r": 14, "b": 50, "l": 60}, "height": 440}
    made = go.Figure(traces, {**common, **layout})
    plain: Json = json.loads(made.to_json())
    del plain["layout"]["template"]
    return plain


def _lines_by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows by a text that they share, in order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _unit(group: Group, value: float) -> float:
    """A score as it is drawn: in percent where scores are shares."""
    return round(100.0 * value, 4) if group.share else round(value, 6)


def _faint(color: str) -> str:
    """`#rrggbb` for areas."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"

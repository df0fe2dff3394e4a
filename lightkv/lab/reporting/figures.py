"""The page's plots, as plotly figures in plain data. Colours of text and grid are the page's.

Texts that come from a grid are escaped: plotly reads a subset of HTML in its labels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from lightkv.lab.reporting.drawing import DASHES, PALETTE, SYMBOLS, Json, figure, unit
from lightkv.lab.reporting.effects import Effect
from lightkv.lab.reporting.formatting import (
    axes_text,
    figure_text,
    interval_text,
    setting_text,
    short,
)
from lightkv.lab.reporting.quality import COSTS, quality
from lightkv.lab.reporting.study import VANILLA, Group, Row, Study

MANY = 8
"""Lines of the token plot from which on they are named by retention only."""


def figures(study: Study, group: Group, effects: Sequence[Effect]) -> Json:
    """All plots of a group: name → figure, or name → choice → figure."""
    views = {"each setting": None, **{f"by {axis}": axis for axis in study.axes}}
    return {
        "quality": {
            name: {cost: quality(group, axis, cost) for cost in COSTS}
            for name, axis in views.items()
        },
        "effects": main_effects(study, group, effects) if effects else None,
        "tokens": tokens(study, group),
        "settings": axes_text([row.setting for row in group.rows if not row.plain]),
        "kinds": (kinds(study, group) or None) if group.kinds else None,
    }


def main_effects(study: Study, group: Group, effects: Sequence[Effect]) -> Json:
    """Differences to each axis' first label, one row for each label, one mark for each retention."""
    rows = list(dict.fromkeys((effect.axis, effect.label, effect.first) for effect in effects))
    retentions = study.retentions(group)
    levels: list[str | None] = [None, *(retentions if len(retentions) > 1 else [])]
    traces = []
    for number, level in enumerate(levels):
        own = [effect for effect in effects if effect.retention == level]
        offset = 0.62 * ((number + 0.5) / len(levels) - 0.5)
        places = [rows.index((each.axis, each.label, each.first)) + offset for each in own]
        color = PALETTE[(number - 1) % len(PALETTE)]
        value = [unit(group, effect.change.value) for effect in own]
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
                    "array": [unit(group, e.change.high - e.change.value) for e in own],
                    "arrayminus": [unit(group, e.change.value - e.change.low) for e in own],
                    "thickness": 2.5 if level is None else 1.5,
                    "width": 0,
                    **({} if level is None else {"color": color}),
                },
                "marker": {
                    "size": 11 if level is None else 8,
                    "symbol": SYMBOLS[(number + 1) % len(SYMBOLS)] if number else "diamond",
                    **({} if level is None else {"color": color}),
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
        yaxis={
            "tickvals": list(range(len(rows))),
            "ticktext": ticks,
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
            "automargin": True,
            "zeroline": False,
        },
        height=170 + 60 * len(rows),
        margin={"t": 60, "r": 14, "b": 60, "l": 60},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def tokens(study: Study, group: Group) -> Json | None:
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
            place = study.retentions(group).index(rows[0].retention)
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


def kinds(study: Study, group: Group) -> Json:
    """Retention → measure → heat map of settings and kinds of question."""
    found: dict[str, Json] = {}
    for retention in study.retentions(group):
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
    values = [[None if e is None else unit(group, e.value) for e in line] for line in shown]
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
        # Numbers, because two categories of the same text would be one.
        yaxis={
            "tickvals": list(range(len(rows))),
            "ticktext": names,
            "range": [len(rows) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
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

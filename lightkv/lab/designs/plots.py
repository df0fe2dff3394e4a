"""The plots of a search's page, as plotly figures in plain data.

Texts that come from a study are escaped: plotly reads a subset of HTML in its labels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from lightkv.lab.designs.findings import Findings, Tried
from lightkv.lab.designs.sentences import SURE
from lightkv.lab.reporting.figures import PALETTE, figure

Json = dict[str, Any]
MOST_EFFECTS = 15
"""Choices in the plot of what mattered; the table below it has all."""


def plots(found: Findings) -> Json:
    """Name → figure; None where there is nothing to draw."""
    return {
        "front": front_plot(found),
        "effects": effects_plot(found) if found.effects else None,
        "course": course_plot(found),
    }


def front_plot(found: Findings) -> Json:
    """Change of the score against FLOPs: a colour for each retention, the front joined."""
    traces = []
    labels = list(dict.fromkeys(tried.retention for tried in found.tried))
    for number, label in enumerate(labels):
        here = [t for t in found.tried if t.retention == label and not t.repeats]
        color = PALETTE[number % len(PALETTE)]
        name = f"retention {label}" if label else "stages of their own"
        early = [t for t in here if t.drawn and not t.finished]
        drawn = [t for t in here if t.drawn and t.finished]
        made = [t for t in here if not t.drawn and t.finished]
        for some, what, marker in (
            (early, "ended early", {"symbol": "circle-open", "size": 6, "opacity": 0.5}),
            (drawn, "drawn", {"symbol": "circle", "size": 8}),
            (made, "made by hand", {"symbol": "diamond", "size": 12}),
        ):
            if some:
                traces.append(_points(found, some, f"{name}, {what}", {**marker, "color": color}))
    best = found.front
    joined = _points(found, best, "front", {"symbol": "circle-open", "size": 15})
    joined |= {"mode": "lines+markers", "line": {"shape": "hv", "dash": "dot", "width": 1.5}}
    traces.append({**joined, "meta": "ink"})
    return figure(
        traces,
        xaxis={"title": {"text": "prefill FLOPs, relative to the uncompressed model"}},
        yaxis={"title": {"text": f"change of the score ({_unit(found)})"}, "zeroline": True},
        height=520,
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0},
        margin={"t": 24, "r": 14, "b": 150, "l": 60},
    )


def effects_plot(found: Findings) -> Json:
    """Share of the variance that goes with each choice; those that may be chance are faint."""
    shown = found.effects[:MOST_EFFECTS]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [100.0 * effect.share for effect in shown],
        "y": list(range(len(shown))),
        "marker": {"color": [PALETTE[0] if e.enough and e.p <= SURE else "#BBBBBB" for e in shown]},
        "text": [f"{100.0 * effect.share:.0f} %" for effect in shown],
        "hovertext": [
            f"{html.escape(effect.path)}: {effect.trials} trials, p {effect.p:.3f}"
            for effect in shown
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    return figure(
        [bars],
        xaxis={"title": {"text": "share of the variance within a retention (%)"}},
        yaxis={
            "tickvals": list(range(len(shown))),
            "ticktext": [html.escape(effect.path) for effect in shown],
            "range": [len(shown) - 0.5, -0.5],
            "automargin": True,
        },
        height=110 + 30 * len(shown),
    )


def course_plot(found: Findings) -> Json | None:
    """The best change so far at each retention, over the trials."""
    traces = []
    for number, label in enumerate(found.retentions):
        so_far: float | None = None
        x, y = [], []
        for place, tried in enumerate(t for t in found.tried if t.drawn):
            if tried.retention != label or not tried.finished or tried.change is None:
                continue
            so_far = tried.change if so_far is None else max(so_far, tried.change)
            x.append(place)
            y.append(_drawn_as(found, so_far))
        if x:
            color = PALETTE[number % len(PALETTE)]
            name = html.escape(f"retention {label}")
            line = {"shape": "hv", "color": color}
            traces.append(
                {"type": "scatter", "name": name, "x": x, "y": y, "mode": "lines", "line": line}
            )
    if not traces:
        return None
    return figure(
        traces,
        xaxis={"title": {"text": "trial"}, "tickformat": "d"},
        yaxis={"title": {"text": f"best change so far ({_unit(found)})"}},
        showlegend=True,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        margin={"t": 24, "r": 14, "b": 90, "l": 60},
    )


def _points(found: Findings, some: Sequence[Tried], name: str, marker: Json) -> Json:
    some = [t for t in some if t.change is not None and t.cell.flops is not None]
    return {
        "type": "scatter",
        "name": html.escape(name),
        "mode": "markers",
        "x": [t.cell.flops for t in some],
        "y": [_drawn_as(found, t.change or 0.0) for t in some],
        "text": [_hover(found, t) for t in some],
        "marker": marker,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(found: Findings, tried: Tried) -> str:
    choices = "<br>".join(
        f"{html.escape(key)}: {html.escape(label)}" for key, label in tried.choices.items()
    )
    change = found.points(tried.change or 0.0)
    return f"{html.escape(tried.cell.name)}: {change} on {tried.samples} samples<br>{choices}"


def _drawn_as(found: Findings, value: float) -> float:
    return round(100.0 * value, 4) if found.share else round(value, 6)


def _unit(found: Findings) -> str:
    return "points" if found.share else "log-probability"

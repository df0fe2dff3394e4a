"""What the plots share: colours, marks, and figures that plotly has checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lightkv.lab.reporting.study import Group, Row

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#9A6324", "#7F7F7F")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; brown and grey for the rest."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
Json = dict[str, Any]


def figure(traces: list[Json], **layout: Any) -> Json:
    """Checked by plotly, then plain data; `meta: "ink"` marks what takes the colour of text."""
    import plotly.graph_objects as go

    common = {"template": "none", "margin": {"t": 24, "r": 14, "b": 50, "l": 60}, "height": 440}
    made = go.Figure(traces, {**common, **layout})
    plain: Json = json.loads(made.to_json())
    del plain["layout"]["template"]
    return plain


def lines_by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """The rows by a text that they share, in order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def unit(group: Group, value: float) -> float:
    """A score as it is drawn: in percent where scores are shares."""
    return round(100.0 * value, 4) if group.share else round(value, 6)


def faint(color: str) -> str:
    """`#rrggbb` for areas."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"

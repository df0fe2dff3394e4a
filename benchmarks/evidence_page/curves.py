"""The curves of docs/evidence.md, in colours that follow the page's (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kept import Kept, Row
from matplotlib import pyplot as plt
from scheme import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RULE

from evidence_page.figures import Cells
from evidence_page.guidance import gains
from evidence_page.presets import RETENTIONS, SORTED_BY
from evidence_page.presets import rank as rank_of
from evidence_page.tokens import achievable

DRAWN = ("lightkv", "lightkv-plus", "fastv", "random")
"""Presets that always have a colour, with the best one of the others."""
COLORS = (GREEN, BLUE, ORANGE, GREY, PURPLE)
GROUPS = {
    "one digit": ("color_to_digit", "digit_to_color", "exists"),
    "all digits": ("count", "list"),
    "places": ("spatial",),
    "time": ("motion", "last", "moment"),
    "the second picture": ("second_color",),
    "both pictures": ("both", "only_second"),
}
"""Group → kinds of question."""


def quality(kept: Kept) -> Any:
    """Score against achieved retention, a panel for each group of questions."""
    cells = Cells(kept)
    asked = {row["kind"] for row in kept.kinds}
    groups = {name: kinds for name, kinds in GROUPS.items() if asked & set(kinds)}
    scores = {name: _scores(kept, kinds) for name, kinds in groups.items()}
    figure, panels = plt.subplots(
        1, len(groups), figsize=(3.2 * len(groups), 3.6), sharey=True, squeeze=False
    )
    colored = _colored(cells)
    for axes, (group, found) in zip(panels[0], scores.items(), strict=True):
        plain = next(
            (found[c["name"]] for c in cells.where(cell="vanilla") if c["name"] in found), 0
        )
        axes.axhline(100 * plain, color=INK, lw=0.8, ls=":")
        for method in sorted(cells.labels("method"), key=lambda name: name in colored):
            points = _points(cells, method, found)
            look = {"color": colored.get(method, RULE), "marker": "o", "ms": 3}
            if points:
                label = method if method in colored else None
                axes.plot(*zip(*points, strict=True), label=label, **look)
        axes.set_title(group, fontsize=9)
        axes.set_xlabel("retention")
    panels[0][0].set_ylabel("right answers (%)")
    panels[0][-1].legend(fontsize=7)
    return figure


def _scores(kept: Kept, kinds: Sequence[str]) -> dict[str, float]:
    """Name of a cell → mean score of these kinds, each question alike."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in kept.kinds:
        if row["kind"] in kinds:
            found.setdefault(row["name"], []).append((row["samples"], row["mean"]))
    return {
        name: sum(n * mean for n, mean in parts) / sum(n for n, _ in parts)
        for name, parts in found.items()
    }


def _colored(cells: Cells) -> dict[str, str]:
    others = [name for name in cells.labels("method") if name not in DRAWN]
    others = [name for name in others if _has(cells, name)]
    best = sorted(others, key=lambda name: rank_of(cells, name))[:1]
    return dict(zip((*DRAWN, *best), COLORS, strict=False))


def _has(cells: Cells, method: str) -> bool:
    cell = cells.one(method=method, retention=SORTED_BY)
    return cell is not None and cell["status"] == "done"


def _points(cells: Cells, method: str, scores: dict[str, float]) -> list[tuple[float, float]]:
    rows: list[Row] = [
        cell
        for retention in RETENTIONS
        for cell in cells.where(method=method, retention=retention)
        if cell["status"] == "done"
    ]
    return [(row["retention"], 100 * scores[row["twin"]]) for row in rows if row["twin"] in scores]


def reach(found: Sequence[Kept]) -> Any:
    """Achievable retention against the number of vision tokens; bars reach as far as the intervals."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    sizes: set[int] = set()
    for kept, look in zip(found, ("-", "--"), strict=False):
        cells = Cells(kept)
        for method in cells.labels("method"):
            color = dict(zip(DRAWN, COLORS, strict=False)).get(method, PURPLE)
            points = [(int(task), achievable(cells, task, method)) for task in cells.tasks]
            known = [(n, [1.0 if x is None else x for x in each]) for n, each in points if each]
            if not known:
                continue
            sizes |= {number for number, _ in known}
            middle, small, large = zip(*(each for _, each in known), strict=True)
            bars = [
                [m - s for m, s in zip(middle, small, strict=True)],
                [far - m for m, far in zip(middle, large, strict=True)],
            ]
            what = kept.head["tasks"][cells.tasks[0]]["name"]
            axes.errorbar(
                [n for n, _ in known], middle, yerr=bars, fmt="o" + look, color=color,
                label=f"{method}, {what}", capsize=2, lw=1.2, elinewidth=0.6,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(sorted(sizes), [str(size) for size in sorted(sizes)])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("vision tokens")
    axes.set_ylabel("retention that loses at most a point")
    axes.legend(fontsize=8)
    return figure


def fading(found: Sequence[Kept]) -> Any:
    """Gain of guidance by the frames since the digit was seen: a column for each method, a row for each
    retention."""
    columns = [(kept, method) for kept in found for method in Cells(kept).labels("method")]
    rows = list(dict.fromkeys(each for kept in found for each in Cells(kept).labels("retention")))
    size = (1.6 + 2.8 * len(columns), 0.6 + 2.4 * len(rows))
    figure, panels = plt.subplots(
        len(rows), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for row, retention in zip(panels, rows, strict=True):
        row[0].set_ylabel("gain on none (points)")
        for axes, (kept, method) in zip(row, columns, strict=True):
            _gains(axes, kept, method, retention)
    for axes in panels[-1]:
        axes.set_xlabel("frames since it was seen")
    panels[0][-1].legend(fontsize=7)
    return figure


def _gains(axes: Any, kept: Kept, method: str, retention: str) -> None:
    """One panel: a line for each kind of guidance, with its interval."""
    cells = Cells(kept)
    axes.axhline(0, color=INK, lw=0.8, ls=":")
    axes.set_title(f"{method}, {retention}", fontsize=9)
    for guidance, color in zip(cells.labels("guidance")[1:], COLORS, strict=False):
        cell = cells.one(method=method, retention=retention, guidance=guidance)
        known = [] if cell is None else gains(kept, cell)
        if known:
            far, _, values = zip(*known, strict=True)
            low, high = ([100 * getattr(v, end) for v in values] for end in ("low", "high"))
            axes.fill_between(far, low, high, color=color, alpha=0.12, lw=0)
            axes.plot(far, [100 * v.value for v in values], color=color, label=guidance, lw=1.4)

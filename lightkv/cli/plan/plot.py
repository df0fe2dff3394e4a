"""Plots of the command line. matplotlib is the extra `plot`, imported when something is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightkv.cli.output import check_writable, writing
from lightkv.cli.plan.points import Point
from lightkv.core.errors import ConfigError

KINDS = (".svg", ".png", ".pdf")
COLOURS = ("#2d6a8e", "#c25b28", "#4c8c4a", "#8a4f9e", "#b8860b", "#5a5a5a")
MARKERS = "os^Dvx"


def check_plot(target: str) -> None:
    """Fail before the work where a plot could not be drawn after it.

    Raises:
        ConfigError: another kind of file, a folder that does not exist, or no matplotlib.
    """
    if Path(target).suffix.lower() not in KINDS:
        raise ConfigError(
            "plots are drawn as SVG, PNG or PDF",
            field="--plot",
            value=target,
            remedy=f"name a file that ends in {', '.join(KINDS)}",
        )
    check_writable(target, "--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "drawing needs matplotlib, which is not installed",
            field="--plot",
            value=target,
            remedy="pip install 'lightkv[plot]', or leave --plot out",
        )


def draw_sweep(model: str, points: Sequence[Point], target: str) -> None:
    """Two panels over the retention: FLOPs and KV cache, as shares of the uncompressed model.

    The same points give the same bytes of SVG.

    Raises:
        ConfigError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[str, Any] = {"svg.hashsalt": "lightkv", "font.size": 9, "axes.spines.top": False}
    style["text.parse_math"] = False  # a name with $ is no formula
    with matplotlib.rc_context({**style, "axes.spines.right": False, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 3.1), layout="constrained")
        flops, cache = figure.subplots(1, 2, sharey=True)
        _panel(flops, points, "prefill", "flops")
        _panel(cache, points, "vision_kv", "kv")
        flops.set_title("FLOPs: prefill (solid), with decoding (dashed)", fontsize=9)
        cache.set_title("KV cache: vision (solid), whole (dashed)", fontsize=9)
        flops.set_ylabel("share of the uncompressed model")
        flops.legend(frameon=False)
        figure.suptitle(model, fontsize=10)
        with writing(target, "--plot"):
            figure.savefig(target, metadata=_undated(target))


def _panel(axes: Any, points: Sequence[Point], solid: str, dashed: str) -> None:
    names = list(dict.fromkeys(point.strategy for point in points))
    for number, name in enumerate(names):
        found = [p for p in points if p.strategy == name and p.savings is not None]
        kept = [p.savings.retention for p in found if p.savings is not None]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        looks: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3}
        axes.plot(kept, [p.ratios[solid] for p in found], label=name, **looks)
        axes.plot(kept, [p.ratios[dashed] for p in found], linestyle="--", **looks)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("retention of vision KV")


def _undated(target: str) -> dict[str, Any]:
    """Metadata without the date, so that a plot of the same points is the same file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(
        Path(target).suffix.lower(), {}
    )

"""Figures of matplotlib as SVG files that follow the colour scheme of the page that shows them.

Colours are those of the light scheme; a style sheet in the file has the dark one's, which a browser
takes where the page that holds the picture is dark. Series have colours of Okabe and Ito (2008), which
colour-blind readers tell apart. Files are the same whenever the figures are.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

INK, SOFT, RULE, GROUND, PAPER = "#1c1e24", "#61656f", "#d2d5db", "#eceef2", "#fefefe"
"""Words and axes, words of second rank, lines behind what is drawn, areas behind it; words on areas."""
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#a8508a", "#999999"
DARK = {
    INK: "#e6e8ee",
    SOFT: "#a9aebb",
    RULE: "#4a4f5c",
    GROUND: "#343945",
    PAPER: "#16181d",
    BLUE: "#56b4e9",
    ORANGE: "#ff8c42",
    GREEN: "#35c9a0",
    PURPLE: "#e08fc3",
    GREY: "#8b909c",
}
"""Colour of the light scheme → that of the dark one."""

plt.rcParams.update(
    {
        "svg.hashsalt": "lightkv",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "legend.frameon": False,
        "font.size": 9,
    }
)


def save(figure: Any, path: Path) -> int:
    """Write the figure as SVG and close it; its size in bytes."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    rules = [
        f"[style*='{key}: {light}']{{{key}:{dark} !important}}"
        for light, dark in DARK.items()
        for key in ("fill", "stroke")
    ]
    style = f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
    # matplotlib makes the first <defs> for the sheet of its own.
    data = text.getvalue().replace("<defs>", f"{style}\n<defs>", 1)
    data = re.sub(r"[ \t]+$", "", data, flags=re.M)
    # A hundredth of a point is enough; matplotlib writes six digits, which makes files larger.
    data = re.sub(
        r' (?:d|x|y)="[^"]+"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), data
    )
    path.write_text(data, encoding="utf-8")
    return len(data.encode())

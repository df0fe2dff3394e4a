"""Draws the figures of docs/performance.md from the JSON files of the benchmarks (extra `plot`).

python benchmarks/plots.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
BLUE, ORANGE = "#0072b2", "#d55e00"


def save(figure: Any, name: str) -> None:
    """An SVG that is the same whenever the figures are."""
    figure.tight_layout()
    figure.savefig(IMAGES / name, metadata={"Date": None})
    plt.close(figure)


def ttft(data: dict[str, Any]) -> None:
    """Measured ratio, with the extremes of the rounds, over the FLOPs ratio."""
    rows = {name: row for name, row in data["rows"].items() if "flops" in row}
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    axes.plot([0.35, 0.75], [0.35, 0.75], color="gray", lw=1, label="ideal: time as FLOPs")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["flops"]):
        ratio = row["ttft"]
        spread = [[ratio["ratio"] - ratio["low"]], [ratio["high"] - ratio["ratio"]]]
        ours = name.startswith("lightkv")
        color = BLUE if ours else ORANGE
        axes.errorbar(row["flops"], ratio["ratio"], spread, fmt="o", ms=4, lw=1, color=color)
        axes.annotate(name, (row["flops"], ratio["ratio"]), fontsize=6, xytext=(4, -2),
                      textcoords="offset points")  # fmt: skip
    axes.set_xlabel("FLOPs of the prefill / vanilla")
    axes.set_ylabel("time to first token / vanilla")
    axes.legend(fontsize=8)
    save(figure, "ttft.svg")


def stage(data: dict[str, Any]) -> None:
    """Milliseconds over vision tokens, both logarithmic."""
    rows = {int(vision): row for vision, row in data["rows"].items()}
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    sizes = sorted(rows)
    axes.loglog(
        sizes, [1000 * rows[n]["seconds"] for n in sizes], "o-", color=BLUE, label="lightkv"
    )
    dense = [n for n in sizes if "dense_seconds" in rows[n]]
    axes.loglog(
        dense, [1000 * rows[n]["dense_seconds"] for n in dense], "s-", color=ORANGE, label="dense"
    )
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("vision tokens")
    axes.set_ylabel("one stage (ms)")
    axes.legend(fontsize=8)
    save(figure, "stage.svg")


def main() -> None:
    """Both figures, as far as their data is there."""
    plt.rcParams["svg.hashsalt"] = "lightkv"
    for name, draw in (("end_to_end", ttft), ("stage", stage)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            draw(json.loads(path.read_text()))


if __name__ == "__main__":
    main()

"""Draws the figures of docs/performance.md from the JSON files of the benchmarks (extra `plot`).

python benchmarks/plots.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from scheme import BLUE, GREY, INK, ORANGE
from scheme import save as save_svg

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def save(figure: Any, name: str) -> None:
    """Write a figure of docs/images."""
    figure.tight_layout()
    save_svg(figure, IMAGES / name)


def ttft(data: dict[str, Any]) -> None:
    """Measured ratio of each preset with the extremes of its rounds, and its ideal."""
    rows = [(name, row) for name, row in data["rows"].items() if "flops" in row]
    rows.sort(key=lambda item: item[1]["ttft"]["ratio"], reverse=True)
    names, found = zip(*rows, strict=True)
    ratios = [row["ttft"]["ratio"] for row in found]
    spread = [
        [row["ttft"]["ratio"] - row["ttft"]["low"] for row in found],
        [row["ttft"]["high"] - row["ttft"]["ratio"] for row in found],
    ]
    colors = [BLUE if name.startswith("lightkv") else GREY for name in names]
    figure, axes = plt.subplots(figsize=(6.4, 4.8))
    axes.barh(names, ratios, xerr=spread, color=colors, error_kw={"lw": 1, "ecolor": INK})
    axes.scatter(
        [row["flops"] for row in found], names, marker="|", s=160, color=ORANGE, zorder=3,
        label="ideal: ratio of FLOPs",
    )  # fmt: skip
    axes.set_xlim(0, 0.7)
    axes.set_xlabel("time to first token / vanilla, at retention 0.55")
    axes.legend(fontsize=8, loc="upper right")
    save(figure, "ttft.svg")


def stage(data: dict[str, Any]) -> None:
    """Milliseconds of process time over vision tokens in float32, both logarithmic."""
    rows = {row["vision_tokens"]: row for row in data["sizes"] if row["dtype"] == "float32"}
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    sizes = sorted(rows)
    for name, color, mark in (("ours", BLUE, "o-"), ("dense", ORANGE, "s-")):
        known = [n for n in sizes if name == "ours" or rows[n]["dense_fits"]]
        times = [1000 * rows[n][name]["cpu_seconds"]["median"] for n in known]
        label = "lightkv" if name == "ours" else "plain dense code, as far as it fits"
        axes.loglog(known, times, mark, color=color, label=label)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("vision tokens")
    axes.set_ylabel("one stage (ms)")
    axes.legend(fontsize=8)
    save(figure, "stage.svg")


def main() -> None:
    """Both figures, as far as their data is there."""
    for name, draw in (("end_to_end_all", ttft), ("stage", stage)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            draw(json.loads(path.read_text()))


if __name__ == "__main__":
    main()

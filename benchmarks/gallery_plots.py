"""Plots of the gallery: tokens that are counted, and answers that the study has measured.

`tokens` counts without a model. `curves` and `presets` are drawn from what `study.py` keeps of grids
whose only axis is `method`, such as benchmarks/grids/presets_scenes.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evidence_page.figures import Cells, bounds
from evidence_page.presets import rank
from kept import Row, read
from matplotlib import pyplot as plt
from scheme import BLUE, GREEN, GREY, GROUND, INK, ORANGE, PURPLE, RULE, SOFT, save

WIDTH = 8.0
"""Inches of 96 pixels: as wide as the site's column, so that letters keep their size."""
RETENTION = 0.35
"""Of all pictures that show one."""
COUNTED = "llava-v1.5-7b"
COUNTED_BY = ("lightkv", "fastv", "pyramiddrop", "vscan", "visionzip", "elastic-cache")
LEADING = {
    "lightkv-lean": (INK, "o"),
    "fastvid": (PURPLE, "P"),
    "lightkv-plus": (BLUE, "D"),
    "fastv": (ORANGE, "^"),
    "lightkv": (GREEN, "s"),
    "random": (GREY, "v"),
}
"""Strategies that have a line of their own in `curves`, with colour and mark."""
SITES = {
    "between layers": BLUE,
    "before the decoder": ORANGE,
    "both": PURPLE,
    "on the cache": GREEN,
}
"""Where a strategy acts, with the colour of it in `tokens` and `presets`."""


def site_of(strategy: str) -> str:
    """Where a preset acts: a key of `SITES`."""
    from lightkv import Pipeline
    from lightkv.core.pipeline.pipeline import resolve_spec

    pipeline = Pipeline.build(resolve_spec(strategy), 32)
    if pipeline.on_cache is not None:
        return "on the cache"
    before = {placed.spec.after_layer == 0 for placed in pipeline.stages}
    if len(before) > 1:
        return "both"
    return "before the decoder" if True in before else "between layers"


def sites_key(figure: Any, sites: Sequence[str]) -> None:
    """A key of the places where strategies act."""
    shown = [(name, color) for name, color in SITES.items() if name in sites]
    handles = [plt.Line2D([], [], color=color, lw=6) for _, color in shown]
    names = [name for name, _ in shown]
    figure.legend(handles, names, loc="upper left", ncols=len(shown), fontsize=9, borderaxespad=0)


def small(count: int, columns: int, high: float) -> tuple[Any, list[Any]]:
    """A figure of `count` small plots with equal axes, and room for a key above."""
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(WIDTH, high * rows + 0.35), sharex=True, sharey=True, squeeze=False
    )
    found = list(grid.ravel())
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, length=2)
    for axes in found[count:]:
        axes.set_visible(False)
    for axes in found[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return figure, found[:count]


def finish(figure: Any, path: Path, across: str, up: str) -> int:
    """Labels for all small plots, and the file."""
    height = figure.get_figheight()
    figure.tight_layout(rect=(0.025, 0.25 / height, 1, 1 - 0.3 / height), h_pad=0.9, w_pad=0.6)
    figure.text(0.5, 0.05 / height, across, ha="center", va="bottom")
    figure.text(0.004, 0.5, up, va="center", rotation=90)
    return save(figure, path)


def tokens(path: Path) -> int:
    """Vision tokens in each layer's cache under strategies that hold equally many on average."""
    from lightkv.checkpoints.describe import describe
    from lightkv.core.cost.counting import count_savings, prompt_layout
    from lightkv.core.pipeline.pipeline import Pipeline, resolve_spec

    described = describe(COUNTED, None)
    layers, layout = described.shape.num_layers, prompt_layout(described.views, 75)
    figure, plots = small(len(COUNTED_BY), 3, 1.7)
    for axes, name in zip(plots, COUNTED_BY, strict=True):
        pipeline = Pipeline.build(
            resolve_spec(name), layers, places=described.places, retention=RETENTION
        )
        found = count_savings(pipeline, described.shape, layout)
        kept, whole = found.compressed.vision_tokens, found.vanilla.vision_tokens[0]
        edges = np.arange(layers + 1) + 0.5
        axes.stairs([whole] * layers, edges, fill=True, color=GROUND)
        axes.stairs(kept, edges, fill=True, color=SITES[site_of(name)])
        axes.set_title(name, size=10, loc="left", pad=3)
        axes.set_title(f"last layer: {kept[-1]}", size=8.5, loc="right", color=SOFT)
        axes.set_xlim(0.5, layers + 0.5)
        axes.set_ylim(0, whole)
        axes.set_xticks([1, layers // 4, layers // 2, 3 * layers // 4, layers])
        axes.set_yticks([0, whole // 2, whole])
    sites_key(figure, [site_of(name) for name in COUNTED_BY])
    return finish(figure, path, "decoder layer", "vision tokens in its cache")


@dataclass(frozen=True)
class Quality:
    """What strategies answer at each retention, of one kind of data.

    Attributes:
        cells: of the grid.
        vanilla: the uncompressed model's.
    """

    cells: Cells
    vanilla: Row

    @classmethod
    def read(cls, path: Path) -> Quality:
        """A grid that is kept.

        Raises:
            SystemExit: another file, no answers, or several cells of one strategy and retention.
        """
        try:
            cells = Cells(read(path))
        except ValueError:
            raise SystemExit(f"{path}: not a text that benchmarks/study.py keeps") from None
        done = [cell for cell in cells.all if cell["status"] == "done"]
        points = [cell for cell in done if cell.get("factor_method")]
        if not points:
            raise SystemExit(f"{path}: no finished cells with an axis `method`")
        vanilla = [cell for cell in done if cell["factor_cell"] == "vanilla"]
        if not vanilla:
            raise SystemExit(f"{path}: the uncompressed model is missing")
        named = {(cell["factor_method"], cell["factor_retention"]) for cell in points}
        if len(named) != len(points) or len(vanilla) > 1:
            raise SystemExit(f"{path}: several axes, models or tasks; a curve is of one")
        return cls(cells, vanilla[0])

    @property
    def title(self) -> str:
        """How many of what were asked about."""
        return f"{self.vanilla['clusters']:,} {self.vanilla['factor_task']}"

    @property
    def names(self) -> list[str]:
        """Strategies that have answers, those first that lose least where little is kept."""
        found = [name for name in self.cells.labels("method") if len(self.points(name))]
        return sorted(found, key=lambda name: rank(self.cells, name))

    @property
    def alike(self) -> list[list[str]]:
        """`names`, those together that act at the same place and have the same figures."""
        found: dict[tuple[str, bytes], list[str]] = {}
        for name in self.names:
            found.setdefault((site_of(name), self.points(name).tobytes()), []).append(name)
        return list(found.values())

    def points(self, name: str) -> Any:
        """`[points, 4]` achieved retention and mean score with its interval, in %, of a strategy."""
        rows = [row for row in self.cells.where(method=name) if row["status"] == "done"]
        means = ((row["retention"], bounds(row, "mean")) for row in rows)
        found = [(x, 100 * m.value, 100 * m.low, 100 * m.high) for x, m in means if m is not None]
        return np.array(sorted(found))

    def draw(self, axes: Any, name: str, color: str, **look: Any) -> Any:
        """A strategy's line with its intervals."""
        share, mean, low, high = self.points(name).T
        return axes.errorbar(share, mean, [mean - low, high - mean], color=color, **look)

    def prepare(self, axes: Any, up: Sequence[int]) -> Any:
        """Ticks, at the retentions that were wanted, and the uncompressed model as a line across."""
        wanted = sorted(self.cells.labels("retention"), key=float)
        axes.set_xticks([float(label) for label in wanted], wanted)
        axes.set_ylim(0, 104)
        axes.set_yticks(up)
        look = {"color": SOFT, "lw": 0.9, "ls": (0, (5, 3)), "zorder": 1}
        return axes.axhline(100 * self.vanilla["mean"], **look)


def curves(path: Path, found: Sequence[Quality]) -> int:
    """Answers against retention of a few strategies, a panel for each kind of data."""
    figure, panels = small(len(found), len(found), 3.3)
    shown = [name for name in LEADING if any(name in each.names for each in found)]
    lines: dict[str, Any] = {}
    for axes, each in zip(panels, found, strict=True):
        lines["uncompressed"] = each.prepare(axes, range(0, 101, 20))
        for name in reversed([name for name in shown if name in each.names]):
            color, mark = LEADING[name]
            look = {"marker": mark, "ms": 5, "lw": 1.8, "capsize": 2, "elinewidth": 1}
            lines[name] = each.draw(axes, name, color, **look)
        axes.set_title(each.title, size=10, loc="left")
        axes.set_title(each.vanilla["model"], size=8.5, loc="right", color=SOFT)
        axes.grid(axis="y", color=RULE, lw=0.6)
        axes.set_axisbelow(True)
    names = [*shown, "uncompressed"]
    figure.legend(
        [lines[name] for name in names], names, loc="upper left", ncols=len(names),
        fontsize=9, borderaxespad=0, handlelength=1.8, columnspacing=1.2,
    )  # fmt: skip
    return finish(figure, path, "retention achieved", "right answers (%)")


def presets(path: Path, found: Quality) -> int:
    """Answers against retention of every strategy, a small plot for each, the others behind it.

    Strategies that are `alike` share a plot.
    """
    groups = found.alike
    sites = [site_of(name) for name, *_ in groups]
    figure, plots = small(len(groups), 5, 1.2)
    # One line with gaps: so many lines behind each plot would be most of the file.
    gap = np.full((1, 2), np.nan)
    behind = np.concatenate([np.vstack([found.points(n)[:, :2], gap]) for n, *_ in groups])
    for axes, names, site in zip(plots, groups, sites, strict=True):
        found.prepare(axes, (0, 50, 100))
        axes.plot(*behind.T, color=RULE, lw=0.6, zorder=1)
        look = {"marker": "o", "ms": 3.5, "lw": 1.8, "capsize": 2}
        found.draw(axes, names[0], SITES[site], **look)
        axes.set_title(", ".join(names), size=9, loc="left", pad=3)
    sites_key(figure, sites)
    return finish(figure, path, "retention achieved", "right answers (%)")

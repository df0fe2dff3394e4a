"""Draws the pictures of docs/gallery.md, all of them or those that are named (extra `plot`).

    python benchmarks/gallery.py [merged prompts tokens curves presets clip]
        [--results benchmarks/results/presets_scenes.csv …] [--out docs/images/gallery]

Each file is an SVG that follows the reader's colour scheme, and is the same whenever what it shows is.
`merged`, `prompts` and `clip` run a bundled model on held-out data, `tokens` counts without a model, and
`curves` and `presets` read cells that `lightkv export` wrote, one picture of each for each file. A clip
needs the second bundled model; without it that picture is left out, and the script says so.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from scheme import BLUE, GREEN, GREY, GROUND, ORANGE, PAPER, PURPLE, RULE, SOFT, save

from lightkv.core.errors import ModelError
from lightkv.lab.pictures import Picture, ShownStage, ShownView, collect
from lightkv.lab.pictures.paint import colors, paint_groups, paint_input

ROOT = Path(__file__).parents[1]
SEED = 2026
RETENTION = 0.35
"""Of all pictures that show one."""
WIDTH = 8.0
"""Inches of 96 pixels: as wide as the site's column, so that letters keep their size."""
CELL = 24
"""Pixels for the side of a patch."""
MERGED_SCENE, MERGED_BY = 3, ("lightkv", "pyramiddrop")
PROMPTS_SCENE, PROMPTS_COLORS, PROMPTS_BY = 4, ("cyan", "pink"), ("fastv", "lightkv-plus")
CLIP, CLIP_SIZE, CLIP_BY = 7, (6, 8, 8), ("lightkv", "framefusion")
"""Number of a held-out clip, made with so many steps, rows and columns."""
COUNTED = "llava-v1.5-7b"
COUNTED_BY = ("lightkv", "fastv", "pyramiddrop", "vscan", "visionzip", "elastic-cache")
LEADING = {
    "lightkv-plus": (BLUE, "o"),
    "lightkv": (GREEN, "s"),
    "fastv": (ORANGE, "^"),
    "tome": (PURPLE, "D"),
    "random": (GREY, "v"),
}
"""Strategies that have a line of their own in `curves`, with colour and mark."""
SITES = {
    "between layers": BLUE,
    "before the decoder": ORANGE,
    "on the cache": GREEN,
}
"""Where a strategy acts, with the colour of it in `tokens` and `presets`."""


# -- patches ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One picture of a row, on axes that count patches, and two lines below it."""

    draw: Callable[[Any], object]
    title: str = ""
    note: str = ""

    @classmethod
    def of_pixels(cls, pixels: Any, title: str = "", note: str = "") -> Panel:
        """A picture that is there already."""
        rows, columns = (side / CELL for side in pixels.shape[:2])
        extent = (0, columns, rows, 0)
        return cls(
            lambda axes: axes.imshow(pixels, interpolation="none", aspect="auto", extent=extent),
            title,
            note,
        )


Rows = Sequence[tuple[str, Sequence[Panel]]]


def sheet(
    rows: Rows, view: ShownView, path: Path, *, across: int, key: Sequence[tuple[str, str]] = ()
) -> int:
    """Rows of panels of a view's shape, each below its heading, with a key of colours at the bottom."""
    side = (WIDTH - 0.15 * (across - 1)) / across
    high = side * view.rows / view.columns
    words = any(panel.note for _, row in rows for panel in row)
    tall, foot = high + (0.82 if words else 0.64), 0.3 if key else 0.0
    height = tall * len(rows) + foot
    figure = plt.figure(figsize=(WIDTH, height))
    for number, (heading, row) in enumerate(rows):
        top = 1 - number * tall / height
        figure.text(0, top - 0.06 / height, heading, size=11, va="top", weight="bold")
        for place, panel in enumerate(row):
            left = place * (side + 0.15) / WIDTH
            low = top - (0.3 + high) / height
            axes = figure.add_axes((left, low, side / WIDTH, high / height))
            panel.draw(axes)
            axes.set_axis_off()
            figure.text(left, low - 0.05 / height, panel.title, size=9.5, va="top")
            figure.text(left, low - 0.23 / height, panel.note, size=8.5, va="top", color=SOFT)
    place = 0.0
    for color, words in key:
        patch = plt.Rectangle((place, 0.02 / height), 0.016, 0.16 / height, color=color)
        figure.add_artist(patch)
        figure.text(place + 0.022, 0.1 / height, words, size=9, va="center")
        place += 0.05 + 0.0105 * len(words)
    return save(figure, path)


def scene_of(number: int) -> tuple[Any, Any]:
    """A held-out scene, and the function that asks for the digit of a colour."""
    from lightkv.demo.scenes import color_to_digit_question, numbered_scene

    scene, _ = numbered_scene(number, SEED)

    def ask(color: str) -> str:
        index = [digit.color for digit in scene.digits].index(color)
        return color_to_digit_question(scene.digits, index).text

    return scene, ask


def merged(model: Any, processor: Any, path: Path) -> int:
    """One scene: the input, and what each stage of two strategies leaves of it."""
    scene, ask = scene_of(MERGED_SCENE)
    question = ask(scene.digits[0].color)
    picture = collect(model, processor, [scene.image], [question], MERGED_BY, retention=RETENTION)
    palette, [view] = colors(picture), picture.views
    rows = []
    for run in picture.runs:
        panels = [Panel.of_pixels(paint_input(view, CELL), "input", f"{picture.count} tokens")]
        panels += [
            Panel.of_pixels(paint_groups(view, stage, palette, CELL), stage.title, left(stage))
            for stage in run.stages
        ]
        heading = f"{run.strategy}   “{run.prompt}”   answer: {run.answer}"
        rows.append((heading, panels))
    return sheet(rows, view, path, across=max(len(panels) for _, panels in rows))


def left(stage: ShownStage) -> str:
    """How many tokens a stage left, and how."""
    dropped = int((stage.home < 0).sum())
    how = f"{dropped} dropped" if dropped else f"groups of up to {stage.sizes.max()}"
    return f"{stage.left} tokens; {how}"


def prompts(model: Any, processor: Any, path: Path) -> int:
    """One scene under two questions and two strategies: what is left, and where that differs."""
    scene, ask = scene_of(PROMPTS_SCENE)
    asked = [ask(color) for color in PROMPTS_COLORS]
    rows = []
    for strategy in PROMPTS_BY:
        picture = collect(model, processor, [scene.image], asked, [strategy], retention=RETENTION)
        palette, [view] = colors(picture), picture.views
        last = [run.stages[-1] for run in picture.runs]
        panels = [Panel.of_pixels(paint_input(view, CELL), "input", f"{picture.count} tokens")]
        for name, run, stage in zip("AB", picture.runs, last, strict=True):
            pixels = paint_groups(view, stage, palette, CELL)
            title, note = f"{name}: “{run.prompt}”", f"answer: {run.answer}"
            panels.append(Panel.of_pixels(pixels, title, note))
        panels.append(difference(view, last[0], last[1]))
        rows.append((f"{strategy}: {last[0].left} tokens after the last stage", panels))
    key = [(SOFT, "under A and B"), (BLUE, "under A only"), (ORANGE, "under B only")]
    return sheet(rows, view, path, across=4, key=key)


def difference(view: ShownView, one: ShownStage, other: ShownStage) -> Panel:
    """Which places keep a token after which of two stages."""
    first, second = (np.isin(view.tokens, stage.home[stage.home >= 0]) for stage in (one, other))
    both, first, second = first & second, first & ~second, second & ~first

    def draw(axes: Any) -> None:
        axes.set_xlim(0, view.columns)
        axes.set_ylim(view.rows, 0)
        for row, column in np.ndindex(view.tokens.shape):
            at = (row, column)
            color = SOFT if both[at] else BLUE if first[at] else ORANGE if second[at] else GROUND
            axes.add_patch(
                plt.Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, color=color, lw=0)
            )
            letter = "A" if first[at] else "B" if second[at] else ""
            middle = (column + 0.5, row + 0.53)
            axes.text(*middle, letter, size=8, color=PAPER, ha="center", va="center", weight="bold")

    words = f"{both.sum()} both, {first.sum()} only A, {second.sum()} only B"
    return Panel(draw, "places that keep a token", words)


def clip(path: Path) -> int:
    """A clip: steps side by side, groups over time in one colour.

    Raises:
        ModelError: the second model is not bundled.
    """
    from lightkv.demo.clips import numbered_clip
    from lightkv.demo.model import load

    model, processor = load("video")
    film, questions = numbered_clip(CLIP, SEED, size=CLIP_SIZE)
    asked = [question.text for question in questions if question.kind == "motion"]
    options = {"retention": RETENTION, "videos": [film.frames]}
    return clip_sheet(collect(model, processor, [], asked, CLIP_BY, **options), path)


def clip_sheet(picture: Picture, path: Path) -> int:
    """Frames of a clip side by side: the input, then what each strategy left in the end."""
    palette, views = colors(picture), picture.views
    frames = [Panel.of_pixels(paint_input(v, CELL), v.title.partition(", ")[2]) for v in views]
    rows = [(f"input: {picture.count} tokens", frames)]
    for run in picture.runs:
        stage = run.stages[-1]
        panels = [Panel.of_pixels(paint_groups(v, stage, palette, CELL)) for v in views]
        words = f"{run.strategy}: {stage.left} tokens   “{run.prompt}”   answer: {run.answer}"
        rows.append((words, panels))
    return sheet(rows, views[0], path, across=len(views))


# -- counted and measured --------------------------------------------------------------------------


def site_of(strategy: str) -> str:
    """Where a preset acts: a key of `SITES`."""
    from lightkv import Pipeline
    from lightkv.core.pipeline.pipeline import resolve_spec

    pipeline = Pipeline.build(resolve_spec(strategy), 32)
    if pipeline.on_cache is not None:
        return "on the cache"
    first = min(placed.spec.after_layer for placed in pipeline.stages)
    return "before the decoder" if first == 0 else "between layers"


def sites_key(figure: Any, sites: Sequence[str]) -> None:
    """A key of the places where strategies act."""
    shown = [(name, color) for name, color in SITES.items() if name in sites]
    handles = [plt.Line2D([], [], color=color, lw=6) for _, color in shown]
    names = [name for name, _ in shown]
    figure.legend(handles, names, loc="upper left", ncols=3, fontsize=9, borderaxespad=0)


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
class Curves:
    """Cells of a results file: strategy → [retention, mean, low, high] of each, in %; and vanilla's."""

    methods: dict[str, Any]
    vanilla: float
    samples: int
    task: str

    @classmethod
    def read(cls, path: Path) -> Curves:
        """Cells that `lightkv export` wrote, of a grid with an axis `method`.

        Raises:
            SystemExit: other columns, or cells of several models or tasks.
        """
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("status") == "done"]
        if not rows or "factor_method" not in rows[0]:
            raise SystemExit(f"{path}: no finished cells with an axis `method`")
        if len({(row["model"], row["task"]) for row in rows}) != 1:
            raise SystemExit(f"{path}: cells of several models or tasks; export them apart")
        found: dict[str, list[list[float]]] = {}
        for row in rows:
            name = row["factor_method"] or row.get("factor_cell", "")
            values = [float(row[key]) for key in ("mean", "mean_low", "mean_high")]
            share = float(row["retention"] or 1)
            found.setdefault(name, []).append([share, *(100 * value for value in values)])
        vanilla = found.pop("vanilla", None)
        if vanilla is None:
            raise SystemExit(f"{path}: the uncompressed model is missing")
        points = {name: np.array(sorted(cells)) for name, cells in found.items()}
        samples = max(int(row["samples"]) for row in rows)
        return cls(points, vanilla[0][1], samples, json.loads(rows[0]["task"])["name"])

    @property
    def ranked(self) -> list[str]:
        """Strategies by what they keep at their smallest retentions, best first."""
        least = min(points[:, 0].min() for points in self.methods.values())
        far = {n: points[points[:, 0] < least + 0.2] for n, points in self.methods.items()}
        return sorted(far, key=lambda n: -far[n][:, 1].mean() if len(far[n]) else 0.0)


def curves(path: Path, found: Curves) -> int:
    """Quality against retention of a few strategies, each named at the end of its line."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2))
    shown = [name for name in LEADING if name in found.methods]
    points = [found.methods[name] for name in shown]
    axes.axhline(found.vanilla, color=SOFT, lw=1, ls=(0, (5, 3)))
    most, least = (f(p[:, 0].min() for p in points) for f in (max, min))
    right = max(p[:, 0].max() for p in points)
    axes.annotate(
        f"uncompressed: {found.vanilla:.1f}", (right, found.vanilla), (0, 4),
        textcoords="offset points", ha="right", color=SOFT,
    )  # fmt: skip
    for name, some in zip(shown, points, strict=True):
        color, mark = LEADING[name]
        share, mean, low, high = some.T
        axes.errorbar(
            share, mean, [mean - low, high - mean], color=color, marker=mark, ms=6, lw=2,
            capsize=3, elinewidth=1.2,
        )  # fmt: skip
    ends = apart([some[0, 1] for some in points], 5.5)
    for name, some, at in zip(shown, points, ends, strict=True):
        words = f"{name}  {some[0, 1]:.1f}"
        axes.text(
            min(some[0, 0], most) - 0.012,
            at,
            words,
            ha="right",
            va="center",
            color=LEADING[name][0],
        )
    axes.set_xlim(least - 0.115, right + 0.015)
    axes.set_ylim(0, 103)
    axes.set_yticks(range(0, 81, 20))
    axes.set_xticks(sorted({round(float(share), 2) for share in points[0][:, 0]}))
    axes.set_xlabel("retention achieved: share of vision tokens in the cache, mean over layers")
    axes.set_ylabel("right answers (%)")
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=2)
    figure.tight_layout()
    return save(figure, path)


def apart(values: Sequence[float], least: float) -> list[float]:
    """The values, moved up and down until they are `least` apart."""
    order = np.argsort(values)
    out = np.asarray(values, dtype=float)[order]
    for _ in range(200):
        gap = np.diff(out)
        for low in np.flatnonzero(gap < least - 1e-6):
            push = (least - (out[low + 1] - out[low])) / 2
            out[low] -= push
            out[low + 1] += push
    back = np.empty_like(out)
    back[order] = out
    return [float(value) for value in back]


def presets(path: Path, found: Curves) -> int:
    """Quality against retention of every strategy, one small plot for each, the others behind it."""
    names = found.ranked
    figure, plots = small(len(names), 6, 1.25)
    # One line with gaps: so many lines behind each plot would be most of the file.
    gap = np.full((1, 2), np.nan)
    behind = np.concatenate([np.vstack([found.methods[n][:, :2], gap]) for n in names])
    for axes, name in zip(plots, names, strict=True):
        axes.axhline(found.vanilla, color=SOFT, lw=0.8, ls=(0, (4, 3)))
        axes.plot(*behind.T, color=RULE, lw=0.6, zorder=1)
        share, mean, low, high = found.methods[name].T
        color = SITES[site_of(name)]
        axes.errorbar(
            share, mean, [mean - low, high - mean], color=color, marker="o", ms=3.5, lw=1.8, capsize=2
        )  # fmt: skip
        axes.set_title(name, size=9, loc="left", pad=3)
        axes.set_ylim(0, 104)
        axes.set_yticks([0, 50, 100])
        axes.set_xticks(sorted({round(float(s), 2) for s in found.methods[names[0]][:, 0]}))
    sites_key(figure, [site_of(name) for name in names])
    return finish(figure, path, "retention achieved", "right answers (%)")


# -- command line ----------------------------------------------------------------------------------

OF_SCENES: dict[str, Callable[[Any, Any, Path], int]] = {"merged": merged, "prompts": prompts}
OF_RESULTS: dict[str, Callable[[Path, Curves], int]] = {"curves": curves, "presets": presets}
NAMES = (*OF_SCENES, "tokens", *OF_RESULTS, "clip")


def draw(names: Sequence[str], results: Sequence[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Each file that was written, with its size."""
    of_scenes = [name for name in names if name in OF_SCENES]
    if of_scenes:
        from lightkv.demo.model import load

        model, processor = load()
        for name in of_scenes:
            path = out / f"{name}.svg"
            yield path, OF_SCENES[name](model, processor, path)
    if "tokens" in names:
        yield out / "tokens.svg", tokens(out / "tokens.svg")
    for source in results if set(names) & set(OF_RESULTS) else ():
        found = Curves.read(source)
        for name in (name for name in names if name in OF_RESULTS):
            path = out / f"{name}-{source.stem.removeprefix('presets_')}.svg"
            yield path, OF_RESULTS[name](path, found)
    if "clip" in names:
        try:
            yield out / "clip.svg", clip(out / "clip.svg")
        except ModelError as error:
            print(f"clip is left out: {error}", file=sys.stderr)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all")
    parser.add_argument("--results", type=Path, nargs="+", help="cells, as `lightkv export` writes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "gallery")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(
            f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    results = options.results or sorted((ROOT / "benchmarks" / "results").glob("presets_*.csv"))
    options.out.mkdir(parents=True, exist_ok=True)
    for path, size in draw(options.names or NAMES, results, options.out):
        print(f"{path}: {size / 1024:.0f} KB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

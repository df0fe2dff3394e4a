"""Draws the pictures of docs/gallery.md, all of them or those that are named (extra `plot`).

    python benchmarks/gallery.py [merged prompts tokens curves presets clip]
        [--results benchmarks/results/evidence/presets_scenes.json …] [--out docs/images/gallery]

Each file is an SVG that follows the reader's colour scheme, and is the same whenever what it shows is.
`merged`, `prompts` and `clip` run a bundled model on held-out data; `gallery_plots.py` draws the others.
`tokens` counts without a model. `curves` and `presets` read what `study.py` keeps of its grids of
presets: `curves` is one picture with a panel for each file, `presets` a picture for each. A clip needs
the second bundled model; without it that picture is left out, and the script says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gallery_plots import RETENTION, WIDTH, Quality, curves, presets, tokens
from kept import read
from matplotlib import pyplot as plt
from scheme import BLUE, GROUND, ORANGE, PAPER, SOFT, save
from study import KEPT

from lightkv.core.errors import ModelError
from lightkv.lab.pictures import Picture, ShownStage, ShownView, collect
from lightkv.lab.pictures.paint import colors, paint_groups, paint_input

ROOT = Path(__file__).parents[1]
SEED = 2026
CELL = 24
"""Pixels for the side of a patch."""
MERGED_SCENE, MERGED_BY = 3, ("lightkv", "pyramiddrop")
PROMPTS_SCENE, PROMPTS_COLORS, PROMPTS_BY = 4, ("cyan", "pink"), ("fastv", "lightkv-plus")
CLIP, CLIP_SIZE, CLIP_BY = 7, (6, 8, 8), ("lightkv", "framefusion")
"""Number of a held-out clip, made with so many steps, rows and columns."""


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


# -- command line ----------------------------------------------------------------------------------

OF_SCENES: dict[str, Callable[[Any, Any, Path], int]] = {"merged": merged, "prompts": prompts}
NAMES = (*OF_SCENES, "tokens", "curves", "presets", "clip")
CURVES_OF = ("scenes", "pictures", "pairs", "clips")
PRESETS_OF = ("scenes", "clips")
"""Kinds of data of the study that `curves` and `presets` show, in the order of the page."""


def draw(names: Sequence[str], results: Sequence[Path], out: Path) -> Iterator[tuple[Path, int]]:
    """Each file that was written, with its size.

    Args:
        names: of pictures.
        results: texts that are kept, for `curves` and `presets`; none: those of the study.
        out: folder.
    """
    of_scenes = [name for name in names if name in OF_SCENES]
    if of_scenes:
        from lightkv.demo.model import load

        model, processor = load()
        for name in of_scenes:
            path = out / f"{name}.svg"
            yield path, OF_SCENES[name](model, processor, path)
    if "tokens" in names:
        yield out / "tokens.svg", tokens(out / "tokens.svg")
    if "curves" in names:
        found = [Quality.read(source) for source in results or of_study(CURVES_OF)]
        yield out / "curves.svg", curves(out / "curves.svg", found)
    for source in (results or of_study(PRESETS_OF)) if "presets" in names else ():
        path = out / f"presets-{source.stem.removeprefix('presets_')}.svg"
        yield path, presets(path, Quality.read(source))
    if "clip" in names:
        try:
            yield out / "clip.svg", clip(out / "clip.svg")
        except ModelError as error:
            print(f"clip is left out: {error}", file=sys.stderr)


def of_study(kinds: Sequence[str]) -> list[Path]:
    """What is kept of the study's grids of presets on these kinds of data, as far as they ran."""
    found = (KEPT / f"presets_{kind}.json" for kind in kinds)
    return [path for path in found if path.exists() and read(path).count("done")]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all")
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        help="of `curves` and `presets`, as study.py keeps",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "gallery")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(
            f"no picture is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for path, size in draw(options.names or NAMES, options.results, options.out):
        print(f"{path}: {size / 1024:.0f} KB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

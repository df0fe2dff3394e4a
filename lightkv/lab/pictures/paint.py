"""Colours of groups and of guidance, and one view of one stage as pixels."""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lightkv.lab.pictures.data import FloatArray, IntArray, Picture, ShownStage, ShownView

Pixels = npt.NDArray[np.uint8]
RGB = tuple[int, int, int]

TINT = 0.62
"""Share of the group's colour on a merged patch."""
FADED: RGB = (236, 236, 238)
FADE = 0.80
"""Dropped patches are turned to grey and lie under so much of `FADED`."""
HEAT = 0.78
"""Share of the heat map's colour on a patch."""
RAMP: tuple[RGB, ...] = (
    (12, 10, 40),
    (61, 18, 104),
    (125, 32, 112),
    (189, 52, 88),
    (238, 98, 48),
    (252, 165, 28),
    (250, 240, 150),
)
"""From nothing to the most; light grows evenly, so it survives grey print."""


def colors(picture: Picture) -> list[RGB]:
    """A colour for the group that has its home at each token: the same in all stages and runs.

    Hues follow the golden section. Tokens that survive longest choose first, and each takes, of the next
    few hues, the one least like those of the groups that it ever touches. Channels have 256 steps, so
    with many tokens hues meet again; a colour that is taken is made a little lighter or darker.
    """
    touching = _touching(picture)
    lasted = np.zeros(picture.count, dtype=np.int64)
    for run in picture.runs:
        for stage in run.stages:
            homes = np.unique(stage.home[stage.home >= 0])
            lasted[homes] = np.maximum(lasted[homes], stage.layer + 1)
    out: list[RGB | None] = [None] * picture.count
    taken: set[RGB] = set()
    for number, token in enumerate(np.argsort(-lasted, kind="stable").tolist()):
        near = [color for other in touching.get(token, ()) if (color := out[other]) is not None]
        offered = [_free(_shade(number, step), taken) for step in range(CANDIDATES)]
        chosen = max(offered, key=lambda color: min((_unlike(color, n) for n in near), default=0))
        out[token] = chosen
        taken.add(_coarse(chosen))
    return [color for color in out if color is not None]


CANDIDATES = 10
GOLDEN = 0.6180339887
NUDGE = 10


def _shade(number: int, step: int) -> RGB:
    """Candidate `step` of the colour with that number."""
    hue = ((number + step / CANDIDATES * 89) * GOLDEN) % 1.0
    light = (0.48, 0.62, 0.38)[(number + step) % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, light, (0.85, 0.7)[step % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def _free(color: RGB, taken: Collection[RGB]) -> RGB:
    """The colour, or a lighter or darker one that nobody has; by steps that can be seen while there are
    any left."""
    if _coarse(color) not in taken:
        return color
    for far in (*range(NUDGE, 10 * NUDGE, NUDGE), *range(1, 256)):
        for step in (far, -far):
            red, green, blue = (min(max(channel + step, 0), 255) for channel in color)
            if _coarse((red, green, blue)) not in taken:
                return red, green, blue
    return color


def _coarse(color: RGB) -> RGB:
    """Equal for colours that come to one in the PNG, whose channels have steps of 4."""
    red, green, blue = ((channel + 2) // 4 for channel in color)
    return red, green, blue


def _unlike(one: RGB, other: RGB) -> float:
    """How different two colours look, roughly: squared distance weighted by the eye's channels."""
    weights = (2.5, 4.0, 2.5)
    return sum(w * (a - b) ** 2 for w, a, b in zip(weights, one, other, strict=True))


def _touching(picture: Picture) -> dict[int, list[int]]:
    """Home → homes of the groups beside it, in any stage, run and view, or a frame before or after."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for run in picture.runs:
        for stage in run.stages:
            homes = [_of_cells(view, stage.home, -3) for view in picture.views]
            beside = [pair for h in homes for pair in ((h[1:], h[:-1]), (h[:, 1:], h[:, :-1]))]
            for number, view in enumerate(picture.views[1:]):
                if view.clip is not None and view.clip == picture.views[number].clip:
                    beside.append((homes[number], homes[number + 1]))
            for one, other in beside:
                both = np.stack([one.ravel(), other.ravel()], axis=1)
                pairs.append(both[(both >= 0).all(axis=1) & (both[:, 0] != both[:, 1])])
    found: dict[int, list[int]] = {}
    for one, other in np.unique(np.concatenate(pairs), axis=0).tolist():
        found.setdefault(one, []).append(other)
        found.setdefault(other, []).append(one)
    return found


def heat_scale(guidance: FloatArray) -> float:
    """The guidance that gets the last colour: the highest; the ramp starts at 0."""
    known = guidance[np.isfinite(guidance)]
    return float(known.max(initial=0.0)) or 1.0


def ramp(shares: FloatArray) -> FloatArray:
    """`[…, 3]` colours of shares of the scale in [0, 1], by their root.

    Guidance is skewed: of a straight scale all but a few patches would be black.
    """
    shares = np.sqrt(shares)
    stops = np.linspace(0, 1, len(RAMP))
    table = np.asarray(RAMP, dtype=np.float64)
    return np.stack([np.interp(shares, stops, table[:, c]) for c in range(3)], axis=-1)


def paint_input(view: ShownView, cell: int) -> Pixels:
    """The view without anything on it, `cell` pixels for the side of a patch."""
    width, height = view.columns * cell, view.rows * cell
    whole = width % view.pixels.width == 0 and height % view.pixels.height == 0
    # Whole multiples show the pixels that the model sees, and make small files.
    how = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return np.array(view.pixels.resize((width, height), how))


def paint_groups(view: ShownView, stage: ShownStage, palette: list[RGB], cell: int) -> Pixels:
    """Merged patches tinted and outlined, a dot on the place that is kept, dropped ones faded."""
    base = paint_input(view, cell).astype(np.float64)
    home, size = _of_cells(view, stage.home, -3), _of_cells(view, stage.sizes, 0)
    merged, gone = size > 1, (home < 0) & (home > -3)
    tint = np.zeros((*home.shape, 3))
    tint[merged] = np.asarray(palette, dtype=np.float64)[home[merged]]
    out = _mixed(base, tint, np.where(merged, TINT, 0.0), cell)
    grey = np.repeat(base.mean(axis=-1, keepdims=True), 3, axis=-1)
    faded = _mixed(grey, np.broadcast_to(np.asarray(FADED), tint.shape), FADE, cell)
    out = np.where(_grown(gone, cell)[..., None], faded, out)
    _outline(out, home, merged, tint, cell)
    _dots(out, view, stage, merged, cell)
    return np.rint(out).astype(np.uint8)


def paint_heat(view: ShownView, guidance: FloatArray, scale: float, cell: int) -> Pixels:
    """Guidance over the grey picture; patches that are gone already are faded."""
    base = paint_input(view, cell).astype(np.float64)
    grey = np.repeat(base.mean(axis=-1, keepdims=True), 3, axis=-1)
    values = _of_cells(view, guidance, np.nan)
    known = np.isfinite(values)
    heat = ramp(np.where(known, values, 0.0).clip(0, scale) / scale)
    out = _mixed(grey, heat, HEAT, cell)
    faded = _mixed(grey, np.broadcast_to(np.asarray(FADED), heat.shape), FADE, cell)
    return np.rint(np.where(_grown(known, cell)[..., None], out, faded)).astype(np.uint8)


def _of_cells(view: ShownView, values: IntArray | FloatArray, empty: Any) -> Any:
    """`[rows, columns]` of values `[V]`; `empty` where a cell has no token."""
    return np.where(view.tokens >= 0, values[view.tokens.clip(min=0)], empty)


def _grown(cells: Any, cell: int) -> Any:
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)


def _mixed(base: FloatArray, color: Any, share: Any, cell: int) -> FloatArray:
    """Pixels `[H, W, 3]` with colours `[rows, columns, 3]` on them."""
    part = np.broadcast_to(share, color.shape[:2])
    part = _grown(part, cell)[..., None]
    mixed: FloatArray = base * (1 - part) + _grown(color, cell) * part
    return mixed


def _outline(out: FloatArray, home: IntArray, merged: Any, tint: FloatArray, cell: int) -> None:
    """A line inside each merged patch wherever its neighbour belongs to another group."""
    rows, columns = home.shape
    line = max(1, cell // 10)
    padded = np.full((rows + 2, columns + 2), -9)
    padded[1:-1, 1:-1] = home
    edge = tint * 0.55
    for row, column in np.argwhere(merged):
        top, left = row * cell, column * cell
        area = out[top : top + cell, left : left + cell]
        for other, part in (
            (padded[row, column + 1], np.s_[:line]),
            (padded[row + 2, column + 1], np.s_[-line:]),
            (padded[row + 1, column], np.s_[:, :line]),
            (padded[row + 1, column + 2], np.s_[:, -line:]),
        ):
            if other != home[row, column]:
                area[part] = edge[row, column]


def _dots(out: FloatArray, view: ShownView, stage: ShownStage, merged: Any, cell: int) -> None:
    """White discs with a dark rim on the patches whose place a merged token keeps."""
    centre = (cell - 1) / 2
    radius = max(1.0, cell * 0.17)
    y, x = np.mgrid[:cell, :cell]
    far = np.hypot(y - centre, x - centre)
    disc = (radius + 0.5 - far).clip(0, 1)[..., None]
    rim = (radius + max(1.0, cell * 0.07) + 0.5 - far).clip(0, 1)[..., None]
    keeps = merged & (_of_cells(view, stage.home, -3) == view.tokens)
    for row, column in np.argwhere(keeps):
        area = out[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        area[:] = area * (1 - rim) + 20.0 * rim
        area[:] = area * (1 - disc) + 255.0 * disc

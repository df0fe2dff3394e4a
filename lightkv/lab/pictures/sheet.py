"""The PNG: a line of panels for each run (clips: below one another), with captions and a key."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightkv.core.errors import ConfigError, file_errors
from lightkv.lab.pictures.data import DROPPED, Picture, ShownRun, ShownStage, ShownView, differences
from lightkv.lab.pictures.paint import (
    FADED,
    colors,
    heat_scale,
    paint_groups,
    paint_heat,
    paint_input,
    ramp,
)

PANEL = 200
"""Pixels that a panel is wide, about: patches have whole pixels."""
GAP, MARGIN = 14, 20
NARROWEST = 1090
"""Room for the key in one line."""
MOST_STAGES = 5
"""Stages drawn for each run; of more (a stage on the cache has one in each layer) some are chosen."""
MOST_FRAMES, IN_LINE = 24, 12
"""Frames drawn of a clip; of more some are chosen. And frames that stand side by side."""
STRIP_CAPTION, FRAME_LABEL, LABEL = 32, 12, 11
"""Pixels for the caption of a strip of frames and the gap below it, for the line that names the
frames, and the size of its letters."""
T = TypeVar("T")
INK, SOFT, PAPER = (28, 30, 36), (104, 108, 118), (255, 255, 255)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc")
"""Tried for text beyond ASCII, which Pillow's own font lacks."""


def draw_png(picture: Picture, path: str | Path) -> Image.Image:
    """Write the picture's runs as a PNG, and return it.

    Raises:
        ConfigError: the file cannot be written.
    """
    sheet = _Sheet(picture).drawn()
    remedy = "name a file in a folder that exists"
    with file_errors(ConfigError, "write the file", "out", path, remedy):
        _calmed(sheet).save(path, format="PNG", optimize=True)
    return sheet


def _calmed(image: Image.Image) -> Image.Image:
    """Channels in steps of 4: nobody sees it, and the noise of photographs packs a third better."""
    pixels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((pixels + 2) // 4 * 4).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Place:
    """Where a view lies in a panel: its corner, and pixels for the side of a patch."""

    left: int
    top: int
    cell: int


def places(views: Sequence[ShownView]) -> tuple[list[Place], tuple[int, int]]:
    """Views below one another, in columns where there are many; and the panel's (width, height).

    Frames of a clip stand side by side, those of each clip in lines of their own below the pictures.
    """
    found: list[Place] = []
    top = width = bottom = 0
    for columns, share, gap, some in _blocks(views):
        for start in range(0, len(some), columns):
            left = height = 0
            for view in some[start : start + columns]:
                # Upright strips are as high as others are wide, twice at most.
                cell = max(3, min(share // view.columns, 2 * share // view.rows))
                found.append(Place(left, top, cell))
                left += view.columns * cell + 4
                height = max(height, view.rows * cell)
            width, bottom = max(width, left - 4), top + height
            top = bottom + gap
    return found, (width, bottom)


def _blocks(views: Sequence[ShownView]) -> Iterator[tuple[int, int, int, list[ShownView]]]:
    """Views that are laid out together: how many in a line, pixels for each and below it, and which."""
    for clip, group in groupby(views, lambda view: view.clip):
        some = list(group)
        if clip is None:
            columns = 1 if len(some) <= 2 else ceil(sqrt(len(some)))
            room, gap = PANEL * min(columns, 2), 4
        else:
            columns = ceil(len(some) / ceil(len(some) / IN_LINE))
            room, gap = min(NARROWEST - 2 * MARGIN, PANEL * columns), FRAME_LABEL + 4
        yield columns, (room - 4 * (columns - 1)) // columns, gap, some


def drawn_views(views: Sequence[ShownView]) -> list[ShownView]:
    """All views, but of a clip at most `MOST_FRAMES`, with the first and the last."""
    found: list[ShownView] = []
    for clip, group in groupby(views, lambda view: view.clip):
        some = list(group)
        found += some if clip is None else evenly(some, MOST_FRAMES)
    return found


def chosen(stages: Sequence[ShownStage]) -> list[ShownStage]:
    """All stages, or `MOST_STAGES` at even distances."""
    return evenly(stages, MOST_STAGES)


def evenly(some: Sequence[T], most: int) -> list[T]:
    """All of them, or `most` at even distances with the first and the last."""
    if len(some) <= most:
        return list(some)
    picks = np.linspace(0, len(some) - 1, most).round().astype(int)
    return [some[pick] for pick in picks]


class _Sheet:
    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.palette = colors(picture)
        self.views = drawn_views(picture.views)
        self.places, self.panel = places(self.views)
        self.head, self.small = 16, 12
        self.lines = [chosen(run.stages) for run in picture.runs]
        counts = [1 + sum(1 + (s.guidance is not None) for s in line) for line in self.lines]
        # Strips of frames are wide, so panels stand below one another, each under its caption.
        self.stacked = any(view.clip is not None for view in self.views)
        across = 1 if self.stacked else max(counts)
        self.width = max(2 * MARGIN + across * (self.panel[0] + GAP) - GAP, NARROWEST)
        panel = self.panel[1] + STRIP_CAPTION
        self.heights = [
            52 + (FRAME_LABEL + count * panel if self.stacked else self.panel[1] + 40)
            for count in counts
        ]

    def drawn(self) -> Image.Image:
        height = MARGIN + 30 + sum(self.heights) + 62
        self.image = Image.new("RGB", (self.width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self._title()
        top = MARGIN + 30
        for number in range(len(self.lines)):
            self._run(number, top)
            top += self.heights[number]
        self._key(top + 8)
        return self.image

    def _text(
        self, at: tuple[int, int], text: str, size: int, fill: Any = INK, room: int | None = None
    ) -> int:
        """Write one line, cut to `room` pixels; where it ends."""
        text, font = _one_line(text), _font(size, text)
        room = self.width - MARGIN - at[0] if room is None else room
        if self.draw.textlength(text, font=font) > room:

            def width(letters: int) -> float:
                return self.draw.textlength(text[:letters] + "...", font=font)

            # Halved and not shortened letter by letter: to measure a long line takes milliseconds.
            text = text[: bisect_right(range(1, len(text)), room, key=width)] + "..."
        self.draw.text(at, text, font=font, fill=fill)
        return at[0] + int(self.draw.textlength(text, font=font))

    def _title(self) -> None:
        picture = self.picture
        drawn = sum(int((view.tokens >= 0).sum()) for view in picture.views)
        tokens = f"{picture.count} vision tokens"
        if drawn < picture.count:
            tokens += f", {picture.count - drawn} of them separators that show no patch"
        if any(view.source == "stretched" for view in picture.views):
            what = "frames" if self.stacked else "picture"
            tokens += f"; {what} laid over the grid"
        left_out = len(picture.views) - len(self.views)
        if left_out:
            tokens += f"; {left_out} frames left out"
        self._text((MARGIN, MARGIN - 4), f"{picture.model}: {tokens}", self.head, SOFT)

    def _run(self, number: int, top: int) -> None:
        run, line = self.picture.runs[number], self.lines[number]
        self.draw.line((MARGIN, top, self.width - MARGIN, top), fill=(214, 216, 222))
        self._heading(run, top + 8)
        self._text((MARGIN, top + 30), _note(run, line), self.small, SOFT)
        other = differences(self.picture.runs, number) or []
        found = dict(zip(map(id, run.stages), other, strict=False))
        at = self._panel((MARGIN, top + 52), paint_input, "input", f"{self.picture.count} tokens")
        if self.stacked:
            self._frame_labels(MARGIN, top + 52 + 18)
            at = at[0], at[1] + FRAME_LABEL
        for stage in line:
            if stage.guidance is not None:
                at = self._guidance(at, stage)
            at = self._groups(at, stage, found.get(id(stage)))

    def _heading(self, run: ShownRun, top: int) -> None:
        """Strategy, question and answer. A long question is cut first: the answer is the result."""
        room = self.width - 2 * MARGIN - 28
        question, answer = f'"{run.prompt}"', f"answer: {run.answer}"
        kept = min(self._length(answer, self.head), room // 2)
        end = self._text((MARGIN, top), run.strategy, self.head, room=room // 4)
        left = room - kept - (end - MARGIN)
        end = self._text((end + 14, top), question, self.head, room=left)
        self._text((end + 14, top), answer, self.head, (0, 92, 168))

    def _length(self, text: str, size: int) -> int:
        return ceil(self.draw.textlength(_one_line(text), font=_font(size, text)))

    def _guidance(self, at: tuple[int, int], stage: ShownStage) -> tuple[int, int]:
        guidance = stage.guidance
        assert guidance is not None
        scale = heat_scale(guidance)
        known = guidance[np.isfinite(guidance)]
        mean = float(known.mean()) if known.size else 0.0
        times = f"highest: {scale / mean:.1f} x the mean" if mean > 0 else "all zero"

        def paint(view: ShownView, cell: int) -> Any:
            return paint_heat(view, guidance, scale, cell)

        where = "before " + stage.title if stage.site == "cache" else stage.title
        return self._panel(at, paint, f"guidance, {where}", times)

    def _groups(self, at: tuple[int, int], stage: ShownStage, other: int | None) -> tuple[int, int]:
        def paint(view: ShownView, cell: int) -> Any:
            return paint_groups(view, stage, self.palette, cell)

        gone = int((stage.home == DROPPED).sum())
        merged = int((stage.sizes > 1).sum())
        note = ", ".join(
            ([f"{merged} merged"] if merged else []) + ([f"{gone} dropped"] if gone else [])
        )
        if other is not None:
            note += f"; {other or 'none'} unlike above"
        return self._panel(at, paint, f"{stage.title}: {stage.entered} to {stage.left}", note)

    def _panel(self, at: tuple[int, int], paint: Any, title: str, note: str) -> tuple[int, int]:
        """Draw all views with a caption; where the next panel goes."""
        left, top = at
        if self.stacked:
            end = self._text((left, top), title, self.small)
            self._text((end + 10, top), note, self.small, SOFT)
            top += 18
        for view, place in zip(self.views, self.places, strict=True):
            tile = Image.fromarray(paint(view, place.cell))
            self.image.paste(tile, (left + place.left, top + place.top))
        if self.stacked:
            return left, top + self.panel[1] + STRIP_CAPTION - 18
        under, room = top + self.panel[1], self.panel[0] + GAP - 4
        self._text((left, under + 4), title, self.small, INK, room)
        self._text((left, under + 19), note, self.small, SOFT, room)
        return left + self.panel[0] + GAP, top

    def _frame_labels(self, left: int, top: int) -> None:
        """The names of frames below those of the panel whose corner this is."""
        single = all(view.clip in (None, 0) for view in self.views)
        for view, place in zip(self.views, self.places, strict=True):
            if view.clip is not None:
                title = view.title.removeprefix("clip 1, ") if single else view.title
                below = top + place.top + view.rows * place.cell + 2
                self._text(
                    (left + place.left, below), title, LABEL, SOFT, view.columns * place.cell
                )

    def _key(self, top: int) -> None:
        self.draw.line((MARGIN, top, self.width - MARGIN, top), fill=(214, 216, 222))
        left, top = MARGIN, top + 12
        for color in ((214, 96, 40), (60, 150, 90)):
            self.draw.rectangle((left, top, left + 13, top + 13), fill=color)
            left += 15
        left = self._text((left + 4, top), "patches that ended in one token", self.small) + 18
        self.draw.ellipse((left, top + 2, left + 9, top + 11), fill=PAPER, outline=INK, width=2)
        left = self._text((left + 15, top), "the place that the token keeps", self.small) + 18
        left = self._text((left, top), "no colour: a token of its own", self.small) + 18
        self.draw.rectangle((left, top, left + 13, top + 13), fill=FADED, outline=SOFT)
        left = self._text((left + 19, top), "dropped", self.small) + 18
        left = self._text((left, top), "guidance: 0", self.small) + 6
        bar = ramp(np.linspace(0, 1, 90) ** 2)[None].repeat(13, axis=0)
        self.image.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, top + 1))
        end = self._text((left + 96, top), "the stage's highest (root scale)", self.small) + 18
        if any(differences(self.picture.runs, n) for n in range(len(self.lines))):
            text = "unlike above: patches in another group"
            fits = end + self.draw.textlength(text, font=_font(self.small, text)) < self.width
            self._text((end, top) if fits else (MARGIN, top + 19), text, self.small)


def _note(run: ShownRun, drawn: Sequence[ShownStage]) -> str:
    """What stands below the question."""
    note = f"retention {run.retention:.3f}"
    if len(drawn) < len(run.stages):
        note += f"; {len(drawn)} of its {len(run.stages)} stages"
    return note + (f"; {run.remark}" if run.remark else "")


def _one_line(text: str) -> str:
    """Models answer in several lines too; Pillow measures one only."""
    return " ".join(text.split())


def _font(size: int, text: str) -> Any:
    if not text.isascii():
        for name in FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)

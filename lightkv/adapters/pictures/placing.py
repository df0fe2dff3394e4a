"""From placeholders and pictures of known geometry to a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lightkv.core.errors import LayoutError
from lightkv.core.layout import SEPARATOR, Grid, IntArray, SampleLayout, View, VisionLayout

Placeholders = npt.NDArray[np.bool_]
"""`[B, N]`, or `[N]` of one row, true at the vision tokens of one modality."""


@dataclass(frozen=True, eq=False)
class PictureView:
    """One view of a picture: its grid and the raster cell (or `SEPARATOR`) of each token.

    Attributes:
        patches: `[n]` number of the encoder's patch that each token shows, counted over all images
            that the encoder gets for the picture; `[n, m]` where it pools m of them. Anything at
            separators. None: patches are numbered like the cells.
    """

    grid: Grid
    cells: IntArray
    patches: IntArray | None = None

    @classmethod
    def plain(
        cls, frames: int, rows: int, columns: int, *, leading: int = 0, newline: bool = False
    ) -> PictureView:
        """Raster order; `leading` separators first, with `newline` one after each row."""
        cells = np.arange(frames * rows * columns, dtype=np.int64).reshape(frames * rows, columns)
        if newline:
            breaks = np.full((frames * rows, 1), SEPARATOR, dtype=np.int64)
            cells = np.concatenate([cells, breaks], axis=1)
        first = np.full(leading, SEPARATOR, dtype=np.int64)
        return cls((frames, rows, columns), np.concatenate([first, cells.reshape(-1)]))

    @classmethod
    def mosaic(cls, rows: int, columns: int, side: int, wide: int | None = None) -> PictureView:
        """The stitched view of `rows` × `columns` tiles that come tile by tile.

        Each is a square of side² tokens, or has `side` rows of `wide` tokens.
        """
        wide = side if wide is None else wide
        cells = np.arange(rows * side * columns * wide, dtype=np.int64)
        cells = cells.reshape(rows, side, columns, wide).transpose(0, 2, 1, 3).reshape(-1)
        return cls((1, rows * side, columns * wide), cells)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, a video or a recording: the views that show it, in token order."""

    views: tuple[PictureView, ...]
    encoded: int | None = None
    """Patches that the encoder makes of it, the class tokens left out; None: one for each cell."""

    @property
    def tokens(self) -> int:
        """Vision tokens of the picture."""
        return sum(view.cells.size for view in self.views)


def recording(tokens: int) -> Picture:
    """A recording of so many tokens, one after the other in time."""
    return Picture((PictureView.plain(tokens, 1, 1),) if tokens > 0 else ())


@dataclass(frozen=True, eq=False)
class Pictures:
    """All pictures of one modality in a pass.

    Attributes:
        modality: `image`, `video` or `audio`.
        placeholders: `[B, N]` true at their vision tokens.
        pictures: geometry of each, in the order of the pixel inputs. A batch of beams repeats
            each original row; the pictures are then given once.
    """

    modality: str
    placeholders: Placeholders
    pictures: Sequence[Picture]


def layout_of(kinds: Sequence[Pictures], length: int, pads: Sequence[int]) -> VisionLayout:
    """The layout of a pass.

    Args:
        kinds: its pictures, one item for each modality.
        length: N, positions of a row.
        pads: left padding of each row.

    Raises:
        LayoutError: the number of placeholders does not match the pictures.
    """
    rows = [[views for views, _ in placed(kind)] for kind in kinds]
    return VisionLayout(
        length,
        tuple(
            SampleLayout(_numbered([kind[row] for kind in rows]), int(pad))
            for row, pad in enumerate(pads)
        ),
    )


def _numbered(kinds: Sequence[Sequence[View]]) -> tuple[View, ...]:
    """Views of one row, pictures of all modalities numbered by their place in it."""
    groups = [
        [view for view in views if view.image == image]
        for views in kinds
        for image in sorted({view.image for view in views})
    ]
    groups.sort(key=lambda group: int(group[0].positions[0]))
    return tuple(replace(view, image=image) for image, group in enumerate(groups) for view in group)


def placed(kind: Pictures) -> list[tuple[list[View], int]]:
    """Views of each row, pictures taken in order, and the number of the row's first picture.

    Raises:
        LayoutError: the number of placeholders does not match the pictures.
    """
    placeholders, pictures, what = kind.placeholders, kind.pictures, kind.modality
    counts = placeholders.sum(axis=1)
    total, offered = int(counts.sum()), sum(picture.tokens for picture in pictures)
    times = total // offered if offered else 1
    if total != times * offered or (times and len(counts) % max(times, 1)):
        raise _mismatch(what, total, offered)
    rows: list[tuple[list[View], int]] = []
    cursor = begin = 0
    for row, count in enumerate(counts):
        # A repeated row (beams) takes the pictures of the row that it repeats.
        begin = begin if times > 1 and row % times else cursor
        views, cursor = _fill(np.flatnonzero(placeholders[row]), pictures, begin, what)
        if sum(view.positions.size for view in views) != count:
            used = sum(view.positions.size for view in views)
            raise _mismatch(what, int(count), used, f" in row {row}")
        rows.append((views, begin))
    return rows


def originals(placeholders: Placeholders, offered: int) -> Placeholders:
    """Rows of `[B, N]` without the repetitions of beams.

    Args:
        placeholders: true at the positions of this kind of picture.
        offered: vision tokens that the pixel inputs give, each picture once.
    """
    times = int(placeholders.sum()) // offered if offered else 1
    return placeholders[:: max(times, 1)]


def recordings(chunks: Sequence[int], placeholders: Placeholders) -> list[Picture]:
    """Recordings of chunks with so many tokens: the chunks of a run of placeholders are one recording.

    Where they do not add up to the runs each chunk is one, so that the mismatch is told.
    """
    found, left = [], list(chunks)
    for length in run_lengths(originals(placeholders, sum(chunks))):
        total = 0
        while left and total < length:
            total += left.pop(0)
        if total != length:
            break
        found.append(recording(total))
    whole = sum(each.tokens for each in found) == sum(chunks)
    return found if whole else [recording(tokens) for tokens in chunks]


def run_lengths(placeholders: Placeholders) -> list[int]:
    """Lengths of the runs of true in `[B, N]`, row after row."""
    return [end - start for row in placeholders for start, end in runs(row)]


def runs(row: Placeholders) -> list[tuple[int, int]]:
    """(start, end) of each run of true in `[N]`."""
    edges = np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def _fill(
    positions: IntArray, pictures: Sequence[Picture], start: int, modality: str
) -> tuple[list[View], int]:
    """Views for one row from `pictures[start:]`, and the number of the next unused picture."""
    views: list[View] = []
    used, number = 0, start
    while used < positions.size and number < len(pictures):
        for view in pictures[number].views:
            size = view.cells.size
            here = positions[used : used + size]
            views.append(View(view.grid, here, view.cells, number - start, modality))
            used += size
        number += 1
    return [view for view in views if view.positions.size == view.cells.size], number


def _mismatch(what: str, found: int, expected: int, where: str = "") -> LayoutError:
    given = "audio" if what == "audio" else "pixel"
    return LayoutError(
        f"{found} {what} placeholders{where}, but the {given} inputs give {expected} tokens",
        field="input_ids",
        remedy="let the processor expand the placeholders, one for each picture, and pass the whole "
        "prompt at once (no prefill_chunk_size)",
    )


def uniform(picture: Picture, placeholders: Placeholders) -> list[Picture]:
    """As many copies of one geometry as the placeholders hold."""
    total = int(placeholders.sum())
    if picture.tokens == 0 or total % picture.tokens:
        raise LayoutError(
            f"{total} image placeholders, but each image takes {picture.tokens}",
            field="input_ids",
            remedy="let the processor expand the placeholders, one for each picture, and pass the whole "
            "prompt at once (no prefill_chunk_size)",
        )
    return [picture] * (total // picture.tokens)

"""From pictures of known geometry and placeholder positions to a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightkv.core.errors import LayoutError
from lightkv.core.layout import SEPARATOR, Grid, IntArray, SampleLayout, View, VisionLayout


@dataclass(frozen=True, eq=False)
class Panel:
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
    ) -> Panel:
        """Raster order; `leading` separators first, with `newline` one after each row."""
        cells = np.arange(frames * rows * columns, dtype=np.int64).reshape(frames * rows, columns)
        if newline:
            breaks = np.full((frames * rows, 1), SEPARATOR, dtype=np.int64)
            cells = np.concatenate([cells, breaks], axis=1)
        first = np.full(leading, SEPARATOR, dtype=np.int64)
        return cls((frames, rows, columns), np.concatenate([first, cells.reshape(-1)]))

    @classmethod
    def mosaic(cls, rows: int, columns: int, side: int) -> Panel:
        """The stitched view of `rows` × `columns` tiles of side² tokens that come tile by tile."""
        cells = np.arange(rows * side * columns * side, dtype=np.int64)
        cells = cells.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(-1)
        return cls((1, rows * side, columns * side), cells)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image or a video: the panels that show it, in token order."""

    panels: tuple[Panel, ...]
    encoded: int | None = None
    """Patches that the encoder makes of it, the class tokens left out; None: one for each cell."""

    @property
    def tokens(self) -> int:
        """Vision tokens of the picture."""
        return sum(panel.cells.size for panel in self.panels)


def place(
    placeholders: npt.NDArray[np.bool_],
    pictures: Sequence[Picture],
    pads: Sequence[int],
    *,
    what: str = "image",
) -> list[list[View]]:
    """Views of each row, pictures taken in order, row after row.

    Args:
        placeholders: `[B, N]` true at the positions of this kind of picture.
        pictures: geometry of each, in the order of the pixel inputs. A batch of beams repeats
            each original row; the pictures are then given once.
        pads: left padding of each row.
        what: word for errors.

    Raises:
        LayoutError: the number of placeholders does not match the pictures.
    """
    return [views for views, _ in place_numbered(placeholders, pictures, what=what)]


def place_numbered(
    placeholders: npt.NDArray[np.bool_], pictures: Sequence[Picture], *, what: str = "image"
) -> list[tuple[list[View], int]]:
    """As `place`, with the number of each row's first picture."""
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
        views, cursor = _fill(np.flatnonzero(placeholders[row]), pictures, begin)
        if sum(view.positions.size for view in views) != count:
            raise _mismatch(
                f"{what} in row {row}", int(count), sum(v.positions.size for v in views)
            )
        rows.append((views, begin))
    return rows


def originals(placeholders: npt.NDArray[np.bool_], offered: int) -> npt.NDArray[np.bool_]:
    """Rows of `[B, N]` without the repetitions of beams.

    Args:
        placeholders: true at the positions of this kind of picture.
        offered: vision tokens that the pixel inputs give, each picture once.
    """
    times = int(placeholders.sum()) // offered if offered else 1
    return placeholders[:: max(times, 1)]


def run_lengths(placeholders: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of true in `[B, N]`, row after row."""
    return [end - start for row in placeholders for start, end in runs(row)]


def runs(row: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of each run of true in `[N]`."""
    edges = np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def _fill(positions: IntArray, pictures: Sequence[Picture], start: int) -> tuple[list[View], int]:
    """Views for one row from `pictures[start:]`, and the number of the next unused picture."""
    views: list[View] = []
    used, number = 0, start
    while used < positions.size and number < len(pictures):
        for panel in pictures[number].panels:
            size = panel.cells.size
            views.append(
                View(panel.grid, positions[used : used + size], panel.cells, image=number - start)
            )
            used += size
        number += 1
    return [view for view in views if view.positions.size == view.cells.size], number


def _mismatch(what: str, found: int, expected: int) -> LayoutError:
    return LayoutError(
        f"{found} {what} placeholders, but the pixel inputs give {expected} tokens",
        field="input_ids",
        remedy="let the processor expand the placeholders, one for each picture, and pass the whole "
        "prompt at once (no prefill_chunk_size)",
    )


def uniform(picture: Picture, placeholders: npt.NDArray[np.bool_]) -> list[Picture]:
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


def merge_rows(length: int, pads: Sequence[int], *kinds: Sequence[Sequence[View]]) -> VisionLayout:
    """A layout from the views of several kinds (images, videos), numbered by place in each row."""
    samples = []
    for row, pad in enumerate(pads):
        views: list[View] = []
        groups = [
            [view for view in kind[row] if view.image == image]
            for kind in kinds
            for image in sorted({view.image for view in kind[row]})
        ]
        groups.sort(key=lambda group: int(group[0].positions[0]))
        for image, group in enumerate(groups):
            views += [View(v.grid, v.positions, v.cells, image=image) for v in group]
        samples.append(SampleLayout(tuple(views), int(pad)))
    return VisionLayout(length, tuple(samples))

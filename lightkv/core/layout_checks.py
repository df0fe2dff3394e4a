"""What a layout refuses: impossible grids, spans outside the sequence, cells that fit no grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkv.core.errors import LayoutError

if TYPE_CHECKING:
    from lightkv.core.layout import SampleLayout, View

MOST_CELLS = 2**26
"""Cells of a grid; the tables of a larger one would fill the memory before its span is checked."""


def checked_grid(grid: Any) -> tuple[int, int, int]:
    """(frames, rows, columns) as whole numbers.

    Raises:
        LayoutError: not three positive whole numbers.
    """
    sides = [_whole(side) for side in grid] if isinstance(grid, (list, tuple)) else []
    if len(sides) != 3 or any(side is None or side < 1 for side in sides):
        raise LayoutError(
            "a grid is three positive numbers (frames, rows, columns)",
            field="grid",
            value=grid,
            remedy="an image of 24 x 24 patches is (1, 24, 24)",
        )
    frames, rows, columns = (side or 0 for side in sides)
    if frames * rows * columns > MOST_CELLS:
        raise LayoutError(
            f"a grid has at most {MOST_CELLS:,} cells",
            field="grid",
            value=grid,
            remedy="no sequence holds that many tokens; check the order (frames, rows, columns)",
        )
    return frames, rows, columns


def checked_span(where: str, span: Any) -> tuple[int, Any]:
    """(start, grid) of a span; the grid is checked when its view is made.

    Raises:
        LayoutError: not a pair that begins with a whole number.
    """
    pair = isinstance(span, (list, tuple)) and len(span) == 2 and not isinstance(span[1], int)
    start = _whole(span[0]) if pair else None
    if start is None:
        raise LayoutError(
            "a span is (start, (frames, rows, columns))",
            field=where,
            value=span,
            remedy="(5, (1, 24, 24)) is an image of 576 tokens that starts at 5",
        )
    return start, span[1]


def checked_pads(pads: Sequence[int] | None, rows: int) -> tuple[int, ...]:
    """Left padding of each row, 0 where none is given.

    Raises:
        LayoutError: another number of entries than rows, or one below 0.
    """
    if pads is None:
        return (0,) * rows
    found = [_whole(pad) for pad in pads]
    if len(found) != rows or any(pad is None or pad < 0 for pad in found):
        raise LayoutError(
            f"{rows} numbers that are not negative are needed",
            field="pads",
            value=list(pads),
            remedy="give the left padding of each row, or leave pads out",
        )
    return tuple(pad or 0 for pad in found)


def check_sample(row: int, sample: SampleLayout, length: int | None) -> None:
    """Raise `LayoutError` unless the views fit their grids, each other and the row."""
    where = f"spans[{row}]"
    for number, view in enumerate(sample.views):
        _check_view(f"{where}[{number}]", view)
    positions = sample.positions
    if positions.size == 0:
        return
    twice = positions[:-1][np.diff(positions) == 0]
    if twice.size:
        raise LayoutError(
            "two images claim the same position",
            field=where,
            value=int(twice[0]),
            remedy="give each image its own span",
        )
    if positions[0] < sample.pad:
        raise LayoutError(
            f"an image starts at {int(positions[0])}, before the row's own tokens, which follow "
            f"{sample.pad} positions of padding",
            field=where,
            value=int(positions[0]),
            remedy="count starts from the beginning of the row, left padding included",
        )
    if length is not None and positions[-1] >= length:
        raise LayoutError(
            f"an image ends at position {int(positions[-1])} but the sequence has {length}",
            field=where,
            value=int(positions[-1]),
            remedy=f"spans must lie in 0 … {length - 1}; check start and grid",
        )


def _check_view(where: str, view: View) -> None:
    frames, rows, columns = checked_grid(view.grid)
    count = frames * rows * columns
    cells = view.cells[view.cells >= 0]
    if view.cells.size != view.positions.size:
        problem, value = "each position shows one cell or separator", int(view.positions.size)
    elif cells.size and int(cells.max()) >= count:
        problem, value = f"a grid of {view.grid} has cells 0 … {count - 1}", int(cells.max())
    elif cells.size and int(np.bincount(cells).max()) > 1:
        problem, value = "a cell is shown twice", int(cells[np.argmax(np.bincount(cells))])
    elif np.any(np.diff(view.positions) <= 0):
        problem, value = "positions of cells must ascend", view.positions.tolist()
    else:
        return
    raise LayoutError(
        problem, field=where, value=value, remedy="View.from_span makes a raster view of a span"
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(value) if int(value) == value and abs(value) < 2**31 else None
    except (TypeError, ValueError, OverflowError):
        return None

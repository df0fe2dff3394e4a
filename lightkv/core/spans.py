"""What a user may give as a span: where it starts, its grid and its modality, taken literally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.core.errors import LayoutError

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


def checked_span(where: str, span: Any) -> tuple[int, Any, str]:
    """(start, grid, modality) of a span; grid and modality are checked when its layout is made.

    Raises:
        LayoutError: not a pair, or a triple with a text, that begins with a whole number.
    """
    fits = isinstance(span, (list, tuple)) and len(span) in (2, 3) and not isinstance(span[1], int)
    start = _whole(span[0]) if fits else None
    modality = span[2] if fits and len(span) == 3 else "image"
    if start is None or not isinstance(modality, str):
        raise LayoutError(
            "a span is (start, (frames, rows, columns)), with the modality behind it if it is no image",
            field=where,
            value=span,
            remedy="(5, (1, 24, 24)) is an image of 576 tokens that starts at 5, "
            '(5, (750, 1, 1), "audio") are 750 tokens of sound',
        )
    return start, span[1], modality


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


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return int(value) if int(value) == value and abs(value) < 2**31 else None
    except (TypeError, ValueError, OverflowError):
        return None

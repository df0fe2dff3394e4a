"""Pictures whose tiles are runs of placeholders behind tags that are text; the whole picture comes last.

The last tag of a row is that of a whole picture, and every picture ends in one. So the ids alone say
which tiles belong together, and text between them says where a row of tiles ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, runs
from lightkv.core.errors import LayoutError
from lightkv.core.layout import IntArray

Run = tuple[int, int]
Ends = Callable[[IntArray, Sequence[Run], Run], Sequence[bool]]
"""(ids of the row, runs of the tiles, run of the whole picture) → for each tile but the last whether a
row of tiles ends behind it."""


def tagged_pictures(ids: Any, here: Placeholders, side: int, ends: Ends) -> list[Picture]:
    """Pictures of a batch, row after row.

    Args:
        ids: `[B, N]`.
        here: `[B, N]` true at the vision tokens.
        side: tokens on each side of a tile.
        ends: tells rows of tiles apart.

    Raises:
        LayoutError: a run of placeholders that is no tile.
    """
    rows = zip(np.asarray(ids), here, strict=True)
    return [picture for own, row in rows for picture in _row_pictures(own, row, side, ends)]


def _row_pictures(ids: IntArray, here: Placeholders, side: int, ends: Ends) -> list[Picture]:
    found = runs(here)
    for start, end in found:
        if end - start != side**2:
            raise LayoutError(
                f"a run of {end - start} image placeholders, but each tile takes {side**2}",
                field="input_ids",
                remedy="let the processor expand the placeholders",
            )
    if not found:
        return []
    # Where a tokenizer splits tags, the tag reads as its last part; equal parts make every tile a
    # picture: no harm.
    whole_tag = _tag(ids, found[-1])
    pictures: list[Picture] = []
    tiles: list[Run] = []
    for run in found:
        if _tag(ids, run) == whole_tag:
            stitched = _stitched(ends(ids, tiles, run), side) if tiles else []
            pictures.append(Picture((*stitched, PictureView.plain(1, side, side))))
            tiles = []
        else:
            tiles.append(run)
    return pictures


def _tag(ids: IntArray, run: Run) -> int:
    return int(ids[run[0] - 1]) if run[0] else -1


def _stitched(breaks: Sequence[bool], side: int) -> list[PictureView]:
    """The stitched view of tiles with these ends of rows; a view for each if they form no rectangle."""
    count, rows = len(breaks) + 1, 1 + sum(breaks)
    columns = count // rows
    if all(broken == ((i + 1) % columns == 0) for i, broken in enumerate(breaks)):
        return [PictureView.mosaic(rows, columns, side)]
    return [PictureView.plain(1, side, side)] * count

"""Pictures that are cut into tiles, which come row by row, and a thumbnail of the whole after them.

Models get the tiles and the thumbnail, but not the shape of the cut: six tiles may be 2 × 3, 3 × 2,
1 × 6 or 6 × 1. The thumbnail decides: the right arrangement, shrunk, looks like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from lightkv.adapters.pictures.placing import (
    Picture,
    PictureView,
    Placeholders,
    originals,
    run_lengths,
    runs,
)
from lightkv.core.errors import LayoutError

PROBE = 32
"""Side of the pictures that are compared."""


def arrangement(tiles: torch.Tensor, thumbnail: torch.Tensor) -> tuple[int, int]:
    """(rows, columns) of `tiles` `[n, C, S, S]` whose mosaic looks most like `thumbnail` `[C, S, S]`.

    Reads values on the host; called once for each picture, before the first decoder layer.
    """
    count, tiles = tiles.shape[0], _coarse(tiles)
    wanted = functional.adaptive_avg_pool2d(thumbnail[None].float(), PROBE)[0]
    best, found = float("inf"), (1, count)
    for rows in range(1, count + 1):
        if count % rows:
            continue
        columns = count // rows
        mosaic = stitch(tiles, rows, columns)
        shrunk = functional.adaptive_avg_pool2d(mosaic[None], PROBE)[0]
        error = float((shrunk - wanted).square().mean())
        if error < best:
            best, found = error, (rows, columns)
    return found


def _coarse(tiles: torch.Tensor) -> torch.Tensor:
    """`[n, C, S, S]` → float32 `[n, C, s, s]`, pooled as far as a single tile still has `PROBE` cells
    to a side: each arrangement would otherwise copy and pool all pixels again."""
    step = tiles.shape[-1] // (2 * PROBE)
    if step < 2 or tiles.shape[-1] % step or tiles.shape[-2] % step:
        return tiles.float()
    return functional.avg_pool2d(tiles.float(), step)


def stitch(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """`[rows · columns, C, S, S]` in raster order → `[C, rows · S, columns · S]`."""
    _, channels, height, width = tiles.shape
    grid = tiles.reshape(rows, columns, channels, height, width)
    return grid.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def tiled_pictures(here: Placeholders, pixels: torch.Tensor, per_tile: int) -> list[Picture]:
    """Pictures from runs of placeholders and the tiles `[tiles, C, S, S]` in the same order."""
    lengths = run_lengths(originals(here, len(pixels) * per_tile))
    if any(run % per_tile for run in lengths):
        raise LayoutError(
            f"a run of {max(lengths)} image placeholders is no multiple of {per_tile}",
            field="input_ids",
            remedy="let the processor expand the placeholders",
        )
    return counted_pictures([run // per_tile for run in lengths], pixels, per_tile)


def counted_pictures(counts: Sequence[int], pixels: torch.Tensor, per_tile: int) -> list[Picture]:
    """Pictures of `counts` tiles each, thumbnails included, from the tiles `[tiles, C, S, S]` of all."""
    ends = np.cumsum(counts, dtype=np.int64)
    return [
        tiled_picture(pixels[end - count : end], per_tile)
        for count, end in zip(counts, ends, strict=True)
    ]


def square_runs(row: Placeholders, per_tile: int) -> list[tuple[int, int]]:
    """(start, end) of the tiles of a row `[N]` where something that is no vision token parts them.

    Raises:
        LayoutError: a run of placeholders that is no tile.
    """
    found = runs(row)
    for start, end in found:
        if end - start != per_tile:
            raise LayoutError(
                f"a run of {end - start} image placeholders, but each tile takes {per_tile}",
                field="input_ids",
                remedy="let the processor expand the placeholders",
            )
    return found


def tiled_picture(tiles: torch.Tensor, per_tile: int) -> Picture:
    """One picture of tiles `[n, C, S, S]`, the last a thumbnail if n > 1."""
    return cut_picture(arrangement(tiles[:-1], tiles[-1]) if len(tiles) > 1 else None, per_tile)


def cut_picture(cut: tuple[int, ...] | None, per_tile: int) -> Picture:
    """A picture of tiles of `per_tile` tokens.

    Args:
        cut: rows and columns of tiles before the thumbnail; None for a single tile without one.
        per_tile: tokens of a tile, a square number.
    """
    side = round(per_tile**0.5)
    whole = PictureView.plain(1, side, side)
    if cut is None:
        return Picture((whole,))
    rows, columns = cut
    return Picture((PictureView.mosaic(rows, columns, side), whole))


def column_by_column(picture: Picture) -> Picture:
    """The picture with each tile's tokens column by column: pixel shuffle "v1" leaves them so."""
    side = picture.views[-1].grid[1]  # the last view is a single tile
    views = []
    for view in picture.views:
        cells = view.cells.reshape(-1, side, side).transpose(0, 2, 1).reshape(-1)
        views.append(replace(view, cells=cells))
    return Picture(tuple(views))

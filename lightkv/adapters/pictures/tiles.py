"""How tiles were cut from a picture, read off the pixels.

Models that cut a picture into tiles get the tiles and a thumbnail of the whole picture, but not the
shape of the cut: six tiles may be 2 × 3, 3 × 2, 1 × 6 or 6 × 1. The thumbnail decides: the right
arrangement, shrunk, looks like it.
"""

from __future__ import annotations

import torch
from torch.nn import functional

PROBE = 32
"""Side of the pictures that are compared."""


def arrangement(tiles: torch.Tensor, thumbnail: torch.Tensor) -> tuple[int, int]:
    """(rows, columns) of `tiles` `[n, C, S, S]` whose mosaic looks most like `thumbnail` `[C, S, S]`.

    Reads values on the host; called once for each picture, before the first decoder layer.
    """
    count = tiles.shape[0]
    wanted = functional.adaptive_avg_pool2d(thumbnail[None].float(), PROBE)[0]
    best, found = float("inf"), (1, count)
    for rows in range(1, count + 1):
        if count % rows:
            continue
        columns = count // rows
        mosaic = stitch(tiles.float(), rows, columns)
        shrunk = functional.adaptive_avg_pool2d(mosaic[None], PROBE)[0]
        error = float((shrunk - wanted).square().mean())
        if error < best:
            best, found = error, (rows, columns)
    return found


def stitch(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """`[rows · columns, C, S, S]` in raster order → `[C, rows · S, columns · S]`."""
    _, channels, height, width = tiles.shape
    grid = tiles.reshape(rows, columns, channels, height, width)
    return grid.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)

"""Windows over an image whose inner windows are the tiles that it was cut into."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lightkv.core.contracts import PROTECTED, Partition, Partitioner, WindowSpec
from lightkv.core.layout import Groups, IntArray, SampleLayout, View


class Tiles(Partitioner):
    """One window over each image; its inner windows say which tile each token belongs to.

    Inner window 2t + 2 holds the tokens of the base view that show what tile t shows, 2t + 3 the
    tokens of tile t. Number 0 is an image (or video) of one view.

    The tiles of a stitched view have the size of the base view; padding was cut off evenly on both
    sides. The smallest grid of tiles that holds the view is taken.

    Attributes:
        base: which tokens of the base view stand for a tile: the `region` that the tile covers, or
            T `strips` of consecutive raster tokens (HiRED's released code).
    """

    name = "tiles"
    source = "HiRED, arXiv 2408.10945, section 4"
    base: Literal["region", "strips"] = "region"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        tokens = sample.tokens
        label = np.where(tokens.separator, PROTECTED, tokens.image)
        inner = np.zeros_like(tokens.view)
        for image in np.unique(tokens.image):
            views = [n for n, view in enumerate(sample.views) if view.image == image]
            if len(views) != 2 or sample.views[views[1]].grid[0] > 1:
                continue
            base, grid = (sample.views[number] for number in views)
            side = base.grid[1:]
            canvas = tuple(-(-n // tile) for n, tile in zip(grid.grid[1:], side, strict=True))
            at = tokens.coordinates[tokens.view == views[1], 1:]
            inner[tokens.view == views[1]] = 3 + 2 * tile_of(at, grid, side, canvas)
            at = tokens.coordinates[tokens.view == views[0], 1:]
            inner[tokens.view == views[0]] = 2 + 2 * self._base(at, base, grid, canvas)
        return Partition(label, inner=inner.clip(min=0))

    def _base(self, at: IntArray, base: View, grid: View, canvas: tuple[int, ...]) -> IntArray:
        """`[n]` tile that each cell `at` `[n, 2]` of the base view stands for."""
        _, rows, columns = base.grid
        if self.base == "strips":
            return (at[:, 0] * columns + at[:, 1]) * canvas[0] * canvas[1] // (rows * columns)
        # The base view shows the picture alone, stretched to a square; the grid shows it alone too.
        sides = np.array([rows, columns])
        centre = (2 * at + 1) * np.array(grid.grid[1:]) // (2 * sides)
        return tile_of(centre, grid, (rows, columns), canvas)


def tile_of(at: IntArray, grid: View, side: tuple[int, ...], canvas: tuple[int, ...]) -> IntArray:
    """`[n]` tile that holds the cells `at` `[n, 2]` (row, column) of an unpadded grid."""
    sides = np.array(side)
    cut = (np.array(canvas) * sides - np.array(grid.grid[1:])) // 2
    tile = (at + cut) // sides
    return np.asarray(tile[:, 0] * canvas[1] + tile[:, 1], dtype=np.int64)

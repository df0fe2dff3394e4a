"""Pictures of any resolution: a base view, and a grid of tiles whose padding is cut off again."""

from __future__ import annotations

from lightkv.core.layout import IntArray


def unpadded_grid(size: tuple[int, ...], canvas: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of patches of the tiles' grid that show the picture and not its padding.

    Args:
        size: (height, width) of the picture in pixels.
        canvas: tiles down and across.
        side: patches along the side of a tile.
    """
    rows, columns = (tiles * side for tiles in canvas)
    height, width = size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - 2 * ((rows - used) // 2), columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - 2 * ((columns - used) // 2)


def tile_patches(
    cells: IntArray, grid: tuple[int, int], canvas: tuple[int, int], side: int
) -> IntArray:
    """`[n]` encoder patch of each cell of an unpadded `grid`, tiles counted after the base view.

    Args:
        cells: raster cells, or `SEPARATOR`.
        grid: rows and columns that show the picture.
        canvas: tiles down and across; as much padding is cut off each side of them.
        side: patches along the side of a tile.
    """
    cut = [(tiles * side - used) // 2 for tiles, used in zip(canvas, grid, strict=True)]
    row, column = cells // grid[1] + cut[0], cells % grid[1] + cut[1]
    tile = 1 + row // side * canvas[1] + column // side
    return tile * side**2 + row % side * side + column % side

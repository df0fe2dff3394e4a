"""Pictures that are cut into square tiles, with a small copy of the whole, for the tests of adapters."""

import torch
from rows import check_truth, left_padded, row_ids
from torch.nn import functional

from lightkv.testing.truth import points

TILE = 48
"""Side of a tile in pixels."""


def cut(picture, rows, columns):
    """The tiles of a picture `[3, rows · 48, columns · 48]` and a thumbnail of the whole."""
    tiles = picture.reshape(3, rows, TILE, columns, TILE).permute(1, 3, 0, 2, 4)
    small = functional.interpolate(picture[None], (TILE, TILE), mode="area")
    return torch.cat([tiles.reshape(-1, 3, TILE, TILE), small])


def smooth(rows, columns, generator):
    """A picture with large structures, as photographs have and noise has not."""
    seed = torch.randn(1, 3, rows * 4, columns * 4, generator=generator)
    size = (rows * TILE, columns * TILE)
    return functional.interpolate(seed, size, mode="bilinear")[0]


def thumbnail_first(tiles):
    """The order of families whose thumbnail comes before the tiles."""
    return tiles.roll(1, dims=0)


def same(tiles):
    return tiles


def tile_rows(model, prompts, write, order=same):
    """Left-padded prompts: the first image of each is cut into 1 × 2 tiles, others are one tile.

    Args:
        write: (rows, columns) of the cut → ids of the image; (1, 1) has no thumbnail.
        order: of tiles `[n, 3, S, S]`, given the thumbnail last.
    """
    rows, pixels = [], []
    for prompt in prompts:
        cuts = [(1, 2) if number == 0 else (1, 1) for number in range(prompt.images)]
        ids, generator = row_ids(prompt, [write(*shape) for shape in cuts])
        rows.append(ids)
        for shape in cuts:
            tiles = cut(smooth(*shape, generator), *shape)
            pixels.append(tiles[:1] if shape == (1, 1) else order(tiles))
    inputs = left_padded(rows)
    if pixels:
        inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
    return inputs


def check_tiles(adapter, model, shape, side, write, order=same, given=None):
    """Paint moves the token of its cell, in the stitched tiles and in the thumbnail.

    Args:
        shape: rows and columns of tiles.
        side: tokens of a side of a tile.
        write, order: as for `tile_rows`.
        given: tiles `[n, 3, S, S]` → arguments of the model; they are its pixels if it is None.
    """
    rows, columns = shape
    picture = smooth(rows, columns, torch.Generator().manual_seed(1))
    tiles = cut(picture, rows, columns)
    ids = torch.tensor([[7, *write(rows, columns), 8, 9]])

    def inputs_of(pixels):
        pixels = order(pixels).to(model.dtype)
        return {"input_ids": ids, **(given(pixels) if given else {"pixel_values": pixels})}

    small = 0 if order is thumbnail_first else 1
    size = TILE // side
    for y, x in points(rows * side, columns * side):
        changed = picture.clone()
        top, left = int(y * rows * side) * size, int(x * columns * side) * size
        changed[:, top : top + size, left : left + size] += 3.0
        # The thumbnail is left alone: this is about the tiles.
        painted = torch.cat([cut(changed, rows, columns)[:-1], tiles[-1:]])
        both = inputs_of(tiles), inputs_of(painted)
        sample = check_truth(adapter, model, *both, {1 - small: (0, y, x)})
        grids = [(1, side, side), (1, rows * side, columns * side)]
        assert [view.grid for view in sample.views] == (grids if small == 0 else grids[::-1])
    for y, x in points(side, side):
        painted = tiles.clone()
        top, left = int(y * side) * size, int(x * side) * size
        painted[-1, :, top : top + size, left : left + size] += 3.0
        check_truth(adapter, model, inputs_of(tiles), inputs_of(painted), {small: (0, y, x)})

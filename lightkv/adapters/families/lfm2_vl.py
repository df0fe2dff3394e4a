"""LFM2-VL: tiles of one picture stitched into a view, then the whole picture at its own shape.

Each tile, and the thumbnail after the tiles, is a run of placeholders behind a tag that is text; between
two pictures stand several. `spatial_shapes` says how many patches each run holds, of which 2 × 2 are one
token; how the tiles lie is read off the pixels. Runs without tags are views of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import (
    Picture,
    PictureView,
    Placeholders,
    originals,
    runs,
)
from lightkv.adapters.pictures.tiles import arrangement

BETWEEN = 1
"""Text tokens between two tiles of a picture: the tag."""
Shape = tuple[int, ...]


class Lfm2VLAdapter(HFAdapter):
    """`Lfm2VlForConditionalGeneration`."""

    name = "lfm2_vl"
    models = "LFM2-VL"
    model_types = ("lfm2_vl",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        factor, shapes = config.downsample_factor, inputs.sizes("image", "spatial_shapes")
        grids = [(rows // factor, columns // factor) for rows, columns in shapes]
        own = originals(here, sum(rows * columns for rows, columns in grids))
        pixels, first, found = inputs.geometry("image", "pixel_values"), 0, []
        for row in own:
            for count in crops_of(row, grids, first):
                crops = slice(first, first + count)
                found.append(tiled(grids[crops], pixels[crops], shapes[crops]))
                first += count
        return found


def crops_of(row: Placeholders, grids: Sequence[Shape], first: int) -> list[int]:
    """How many crops each picture of a row `[N]` has; `grids[first]` is the row's first."""
    counts: list[int] = []
    end, tagged = -2, False
    for start, stop in runs(row):
        left = stop - start
        alone = first < len(grids) and left <= grids[first][0] * grids[first][1]
        if alone and tagged and start - end == BETWEEN:
            counts[-1] += 1
            left, first = 0, first + 1
        while left > 0 and first < len(grids):
            counts.append(1)
            left, first = left - grids[first][0] * grids[first][1], first + 1
        end, tagged = stop, alone
    return counts


def tiled(grids: Sequence[Shape], pixels: torch.Tensor, shapes: Sequence[Shape]) -> Picture:
    """A picture of tiles and their thumbnail, from its crops `[n, patches, values]`."""
    tiles, whole = grids[:-1], grids[-1]
    views = [PictureView.plain(1, *grid) for grid in tiles]
    if len(tiles) > 1 and len(set(tiles)) == 1:
        means = pixels.float().mean(dim=-1)
        maps = [each[: h * w].view(1, h, w) for each, (h, w) in zip(means, shapes, strict=True)]
        views = [PictureView.mosaic(*arrangement(torch.stack(maps[:-1]), maps[-1]), *tiles[0])]
    return Picture((*views, PictureView.plain(1, *whole)))

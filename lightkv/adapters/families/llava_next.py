"""LLaVA-NeXT: a square base view, then the unpadded any-resolution grid, a newline after each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lightkv.adapters.families.llava import square_picture
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.contact import select_best_resolution
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder
from lightkv.adapters.pictures.patches import Kind, layout_of
from lightkv.adapters.pictures.placing import Panel, Picture
from lightkv.core.layout import IntArray, VisionLayout


class LlavaNextAdapter(HFAdapter):
    """`LlavaNextForConditionalGeneration`."""

    name = "llava_next"
    models = "LLaVA-NeXT (v1.6)"
    model_types = ("llava_next",)

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        return clip_encoder(inner.multi_modal_projector, image=inner.vision_tower)

    def kinds(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Kind]:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        sizes = host_pairs(inputs.geometry("image", "image_sizes"))
        return [Kind("image", here, [any_resolution(config, size) for size in sizes])]

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        return layout_of(self.kinds(model, inputs), inputs)


def host_pairs(sizes: Any) -> list[tuple[int, int]]:
    """`[(height, width), …]` on the host."""
    array = sizes.detach().cpu().numpy() if isinstance(sizes, torch.Tensor) else np.asarray(sizes)
    return [(int(height), int(width)) for height, width in array.reshape(-1, 2)]


def any_resolution(config: Any, size: tuple[int, int]) -> Picture:
    """Base view and stitched, unpadded grid of an image of `size` (height, width) pixels."""
    side, tile = _side(config), config.vision_config.image_size
    canvas = tile_grid(size, config.image_grid_pinpoints, tile)
    rows, columns = unpadded_grid(size, config.image_grid_pinpoints, tile, side)
    base = square_picture(config).panels[0]
    grid = Panel.plain(1, rows, columns, newline=True)
    patches = tile_patches(grid.cells, (rows, columns), canvas, side)
    encoded = (1 + canvas[0] * canvas[1]) * side**2
    return Picture((base, Panel(grid.grid, grid.cells, patches)), encoded)


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


def _side(config: Any) -> int:
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def tile_grid(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int
) -> tuple[int, int]:
    """Tiles down and across that a picture of `size` (height, width) is cut into."""
    best = select_best_resolution(size, [list(point) for point in pinpoints])
    return best[0] // tile, best[1] // tile


def unpadded_grid(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int, side: int
) -> tuple[int, int]:
    """Rows and columns of patches of the tiles' grid that show the picture and not its padding."""
    rows, columns = (tiles * side for tiles in tile_grid(size, pinpoints, tile))
    height, width = size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - 2 * ((rows - used) // 2), columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - 2 * ((columns - used) // 2)

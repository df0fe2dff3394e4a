"""LLaVA-NeXT: a square base view, then the unpadded any-resolution grid, a newline after each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.families.llava import square_picture
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.contact import select_best_resolution
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
from lightkv.adapters.pictures.any_resolution import tile_patches, unpadded_grid
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class LlavaNextAdapter(HFAdapter):
    """`LlavaNextForConditionalGeneration`."""

    name = "llava_next"
    models = "LLaVA-NeXT (v1.6)"
    model_types = ("llava_next",)

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        return clip_encoder(inner.multi_modal_projector, image=inner.vision_tower)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return [any_resolution(config, size) for size in inputs.sizes("image", "image_sizes")]


def any_resolution(config: Any, size: tuple[int, ...]) -> Picture:
    """Base view and stitched, unpadded grid of an image of `size` (height, width) pixels."""
    side, tile = patches_per_side(config.vision_config), config.vision_config.image_size
    canvas = tile_grid(size, config.image_grid_pinpoints, tile)
    rows, columns = unpadded_grid(size, canvas, side)
    base = square_picture(config).views[0]
    grid = PictureView.plain(1, rows, columns, newline=True)
    patches = tile_patches(grid.cells, (rows, columns), canvas, side)
    encoded = (1 + canvas[0] * canvas[1]) * side**2
    return Picture((base, PictureView(grid.grid, grid.cells, patches)), encoded)


def tile_grid(
    size: tuple[int, ...], pinpoints: Sequence[Sequence[int]], tile: int
) -> tuple[int, int]:
    """Tiles down and across that a picture of `size` (height, width) is cut into."""
    best = select_best_resolution(size, [list(point) for point in pinpoints])
    return best[0] // tile, best[1] // tile

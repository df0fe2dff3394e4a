"""Granite 4 Vision: the views of LLaVA-NeXT after a downsampler, added before chosen decoder layers.

The embeddings of image tokens are zeros. What a token shows is added before some layers, each addition
from another layer of the tower or another offset in the cell, to the vision positions of the full
sequence. So nothing is compressed before the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lightkv.adapters.families.llava_next import tile_grid
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.any_resolution import unpadded_grid
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class Granite4VisionAdapter(HFAdapter):
    """`Granite4VisionForConditionalGeneration`."""

    name = "granite4_vision"
    models = "Granite 4 Vision"
    model_types = ("granite4_vision",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        vision = config.vision_config
        side = int(patches_per_side(vision) * Fraction(config.downsample_rate))
        base = PictureView.plain(1, side, side)
        pictures = []
        for size in inputs.sizes("image", "image_sizes"):
            tiles = tile_grid(size, config.image_grid_pinpoints, vision.image_size)
            grid = unpadded_grid(size, tiles, side)
            pictures.append(Picture((base, PictureView.plain(1, *grid, newline=True))))
        return pictures

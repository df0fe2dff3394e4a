"""Granite Docling 2: the tiles of Idefics3, and features added after the first decoder layers.

A picture that is not cut has no whole picture after it: it is its only tile. The fine route makes four
tokens of each. The additions go to the vision positions of the full sequence, so nothing is compressed
before the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.families.idefics3 import Idefics3Adapter, tag_before, tile_views
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.adapters.pictures.tiles import square_runs


class GraniteDoclingAdapter(Idefics3Adapter):
    """`GraniteDoclingForConditionalGeneration`."""

    name = "granite_docling"
    models = "Granite Docling 2"
    model_types = ("granite_docling",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = patches_per_side(config.vision_config) // config.vision_config.scale_factor
        if inputs.optional("image", "tile_fine_mask") is not None:
            side *= 2
        whole = PictureView.plain(1, side, side)
        assert inputs.input_ids is not None
        pictures: list[list[tuple[int, int]]] = []
        for ids, row in zip(inputs.input_ids, here, strict=True):
            tiles = square_runs(row, side**2)
            for tile in tiles:
                # The first tile of a picture has the same tag in all of them.
                if tag_before(ids, tile) == tag_before(ids, tiles[0]):
                    pictures.append([])
                pictures[-1].append(tile)
        return [Picture((*tile_views(tiles[:-1], side), whole)) for tiles in pictures]

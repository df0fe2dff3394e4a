"""Llama 4: tiles with separators between them, then the whole picture; chunked attention.

The tiles of a row are `tile, separator, tile, …`, a row ends with another separator, and the image tag
follows the last of these. Three of four layers attend inside chunks of the original sequence and have
rotary positions; the others have none and grow warmer with the number of the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.families.idefics3 import stitched, tagged_pictures
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.adapters.pictures.tiles import square_runs
from lightkv.core.layout import IntArray


class Llama4Adapter(HFAdapter):
    """`Llama4ForConditionalGeneration`."""

    name = "llama4"
    models = "Llama 4"
    model_types = ("llama4",)

    def input_module(self, model: nn.Module) -> nn.Module:
        return model

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = round(
            patches_per_side(config.vision_config) * config.vision_config.pixel_shuffle_ratio
        )
        assert inputs.input_ids is not None
        rows = zip(inputs.input_ids, here, strict=True)
        return [picture for ids, row in rows for picture in row_pictures(ids, row, side)]


def row_pictures(ids: IntArray, here: Placeholders, side: int) -> list[Picture]:
    """Pictures of one row `[N]`, from the separators behind its runs of placeholders."""
    pictures = []
    for *tiles, whole in tagged_pictures(ids, square_runs(here, side**2)):
        # The separator before the image tag ends the last row of tiles.
        ends = [bool(ids[end] == ids[whole[0] - 2]) for _, end in tiles]
        views = stitched(ends[:-1], side) if tiles else []
        pictures.append(Picture((*views, PictureView.plain(1, side, side))))
    return pictures

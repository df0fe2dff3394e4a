"""Llama 4: tiles with separators between them, then the whole picture; chunked attention.

The tiles of a row are `tile, separator, tile, …`, a row ends with another separator, and the image tag
follows the last of these. Three of four layers attend inside chunks of the original sequence and have
rotary positions; the others have none and grow warmer with the number of the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, Placeholders
from lightkv.adapters.pictures.tagged import Run, tagged_pictures
from lightkv.core.layout import IntArray


class Llama4Adapter(HFAdapter):
    """`Llama4ForConditionalGeneration`."""

    name = "llama4"
    models = "Llama 4"
    model_types = ("llama4",)

    def input_module(self, model: nn.Module) -> nn.Module:
        return model

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.vision_model]  # type: ignore[list-item]

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = round(
            patches_per_side(config.vision_config) * config.vision_config.pixel_shuffle_ratio
        )
        return tagged_pictures(inputs.input_ids, here, side, _ends)


def _ends(ids: IntArray, tiles: Sequence[Run], whole: Run) -> list[bool]:
    # The separator before the image tag ends the last row of tiles.
    return [bool(ids[end] == ids[whole[0] - 2]) for _, end in tiles[:-1]]

"""Idefics3 and SmolVLM: tiles of one picture stitched into a view, then the whole picture.

Each tile is a run of placeholders behind a tag that is text: `<row_i_col_j>` for tiles, one and the same
global tag for the whole picture, which ends every picture. A line break follows each row of tiles.
So the ids alone say how the tiles lie. Frames of a video are pictures of one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, Placeholders
from lightkv.adapters.pictures.tagged import Run, tagged_pictures
from lightkv.core.layout import IntArray

WITHIN_A_ROW = 2
"""Text tokens between two tiles of one row: the token around images, and the tag."""


class Idefics3Adapter(HFAdapter):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration`."""

    name = "idefics3"
    models = "Idefics3, SmolVLM, SmolVLM2"
    model_types = ("idefics3", "smolvlm")

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.model.vision_model]  # type: ignore[union-attr,list-item]

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = patches_per_side(config.vision_config) // config.scale_factor
        return tagged_pictures(inputs.input_ids, here, side, _ends)


def _ends(ids: IntArray, tiles: Sequence[Run], whole: Run) -> list[bool]:
    return [after[0] - before[1] > WITHIN_A_ROW for before, after in pairwise(tiles)]

"""ERNIE 4.5 VL: dynamic grids, of videos half as many frames; experts by the kind of each token.

The kind of a token is handed to the layers beside the hidden states, and goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.families.qwen_vl import QwenVLAdapter, merged_grid
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders


class Ernie45VLAdapter(QwenVLAdapter):
    """`Ernie4_5_VLMoeForConditionalGeneration`."""

    name = "ernie4_5_vl"
    models = "ERNIE 4.5 VL"
    model_types = ("ernie4_5_vl_moe",)

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        merge = config.vision_config.temporal_merge_size
        grids = inputs.sizes("video", "video_grid_thw")
        return [merged_grid(config, (max(1, t // merge), *sides)) for t, *sides in grids]

"""DeepSeek-VL and Janus: one square view of (image side / patch side)² tokens for each image.

The hybrid's second encoder, of a larger copy of the image, adds channels to the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform


class DeepseekVLAdapter(HFAdapter):
    """`DeepseekVLForConditionalGeneration`, its hybrid, and `JanusForConditionalGeneration`."""

    name = "deepseek_vl"
    models = "DeepSeek-VL, Janus, Janus-Pro"
    model_types = ("deepseek_vl", "deepseek_vl_hybrid", "janus")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = patches_per_side(config.vision_config)
        return uniform(Picture((PictureView.plain(1, side, side),)), here)

"""Gemma 3: sliding and full layers with a rotary base each; the tokens of an image see one another.

Every image, and every crop of pan-and-scan, is a square of `mm_tokens_per_image` tokens. The masks of
a prompt arrive with the blocks of its images; on a filled cache they are made anew from the token types.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.masks import image_blocks
from lightkv.adapters.pictures.placing import Panel, Picture, merge_rows, place, uniform
from lightkv.core.layout import VisionLayout


class Gemma3Adapter(HFAdapter):
    """`Gemma3ForConditionalGeneration`."""

    name = "gemma3"
    models = "Gemma 3"
    model_types = ("gemma3",)
    causal = False

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        side = math.isqrt(config.mm_tokens_per_image)
        pictures = uniform(Picture((Panel.plain(1, side, side),)), here)
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        return image_blocks(inputs.arguments.get("token_type_ids"))

"""Gemma 3: sliding and full layers with a rotary base each; the tokens of an image see one another.

Every image, and every crop of pan-and-scan, is a square of `mm_tokens_per_image` tokens. The masks of
a prompt arrive with the blocks of its images; on a filled cache they are made anew from the token types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.masks import image_blocks
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform


class Gemma3Adapter(HFAdapter):
    """`Gemma3ForConditionalGeneration`."""

    name = "gemma3"
    models = "Gemma 3"
    model_types = ("gemma3",)
    causal = False

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = math.isqrt(config.mm_tokens_per_image)
        return uniform(Picture((PictureView.plain(1, side, side),)), here)

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        return image_blocks(inputs.arguments.get("token_type_ids"))

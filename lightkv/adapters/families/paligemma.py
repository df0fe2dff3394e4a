"""PaliGemma and PaliGemma 2: square images and a prompt whose tokens all see one another.

Image and prompt are one block of the first pass; what is generated is causal. PaliGemma 2 has sliding
layers, whose windows do not cut the block: the masks of the first pass say so, and are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform
from lightkv.core.errors import ModelError, SessionError


class PaliGemmaAdapter(HFAdapter):
    """`PaliGemmaForConditionalGeneration` with a Gemma or Gemma 2 decoder."""

    name = "paligemma"
    models = "PaliGemma, PaliGemma 2"
    model_types = ("paligemma",)
    causal = False

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        if inputs.arguments.get("token_type_ids") is None:
            raise ModelError(
                "without token types it is open whether the prompt is read in one direction or in "
                "both: eager attention does the one and SDPA the other",
                field="token_type_ids",
                remedy="pass the token_type_ids that the processor makes (0 in image and prompt)",
            )
        side = patches_per_side(config.vision_config)
        return uniform(Picture((PictureView.plain(1, side, side),)), here)

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        # Features (`generate`) are attended causally in later turns, pixels in both directions.
        given = inputs.arguments.get
        if given("pixel_values") is not None and given("token_type_ids") is not None:
            raise SessionError(
                "pixels on a filled cache start a second prefix, which PaliGemma was not made for",
                field="pixel_values",
                remedy="begin a new sequence, with all images first",
            )
        return None

"""Mistral 3 and Pixtral: images of their own size, a text token for a break after each row of patches.

The runs of placeholders between breaks are the rows of the image; break tokens are text and are kept.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lightkv.adapters.families.llava_next import host_pairs
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Panel, Picture, merge_rows, place
from lightkv.core.layout import VisionLayout


class Mistral3Adapter(HFAdapter):
    """`Mistral3ForConditionalGeneration`, and LLaVA models with a Pixtral tower."""

    name = "mistral3"
    models = "Mistral 3, Pixtral"
    model_types = ("mistral3",)

    def matches(self, model: nn.Module) -> bool:
        return super().matches(model) or has_pixtral_tower(getattr(model, "config", None))

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        # Only Mistral 3 merges patches behind the tower.
        step = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
        pictures = [
            Picture((Panel.plain(1, height // step, width // step),))
            for height, width in host_pairs(inputs.geometry("image", "image_sizes"))
        ]
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


def has_pixtral_tower(config: Any) -> bool:
    """Whether this is the config of a LLaVA model whose tower keeps the image's own size."""
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    return getattr(config, "model_type", None) == "llava" and tower == "pixtral"

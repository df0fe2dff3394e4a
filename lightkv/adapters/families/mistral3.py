"""Mistral 3, Pixtral and LightOnOCR: images of their own size, in the first two a break after each row.

The runs of placeholders between breaks are the rows of the image; break tokens are text and are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class Mistral3Adapter(HFAdapter):
    """`Mistral3ForConditionalGeneration`, `LightOnOcr…`, and LLaVA models with a Pixtral tower."""

    name = "mistral3"
    models = "Mistral 3, Pixtral, LightOnOCR"
    model_types = ("mistral3", "lighton_ocr")

    def matches(self, model: nn.Module) -> bool:
        return super().matches(model) or has_pixtral_tower(getattr(model, "config", None))

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        tower = getattr(model.model, "vision_encoder", None)
        return super().vision_modules(model) if tower is None else [tower]

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        # All but Pixtral merge patches behind the tower.
        step = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
        return [
            Picture((PictureView.plain(1, height // step, width // step),))
            for height, width in inputs.sizes("image", "image_sizes")
        ]


def has_pixtral_tower(config: Any) -> bool:
    """Whether this is the config of a LLaVA model whose tower keeps the image's own size."""
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    return getattr(config, "model_type", None) == "llava" and tower == "pixtral"

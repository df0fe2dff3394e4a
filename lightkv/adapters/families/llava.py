"""LLaVA-v1.5: one square view of (image side / patch side)² tokens for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform
from lightkv.core.errors import ModelError


class LlavaAdapter(HFAdapter):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower."""

    name = "llava"
    models = "LLaVA-v1.5"
    model_types = ("llava",)

    def matches(self, model: nn.Module) -> bool:
        # Pixtral towers keep the image's own size: another family (mistral3.py).
        vision = getattr(getattr(model, "config", None), "vision_config", None)
        return super().matches(model) and getattr(vision, "model_type", None) != "pixtral"

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        return clip_encoder(inner.multi_modal_projector, image=inner.vision_tower)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return uniform(square_picture(config), here)


def square_picture(config: Any) -> Picture:
    """The base view: patches of the square image, and the class token where it is kept."""
    vision = config.vision_config
    if not isinstance(getattr(vision, "image_size", None), int) or vision.model_type == "pixtral":
        raise ModelError(
            f"LLaVA with a {vision.model_type!r} tower has images of variable size",
            field="model.config.vision_config",
            remedy="use adapter='generic' with layout=VisionLayout.from_spans(…)",
        )
    side = patches_per_side(vision)
    leading = 1 if config.vision_feature_select_strategy == "full" else 0
    return Picture((PictureView.plain(1, side, side, leading=leading),))

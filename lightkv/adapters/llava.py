"""LLaVA-v1.5: one square view of (image side / patch side)² tokens for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.adapters.placing import Panel, Picture, merge_rows, place, uniform
from lightkv.core.adapter import Adapter
from lightkv.core.errors import ModelError
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import VisionLayout


class LlavaAdapter(HFAdapter):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower."""

    name = "llava"
    models = "LLaVA-v1.5"
    model_types = ("llava",)

    def matches(self, model: nn.Module) -> bool:
        # Pixtral towers keep the image's own size: another family (mistral3.py).
        vision = getattr(getattr(model, "config", None), "vision_config", None)
        return super().matches(model) and getattr(vision, "model_type", None) != "pixtral"

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        pictures = uniform(square_picture(config), here)
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


def square_picture(config: Any) -> Picture:
    """The base view: patches of the square image, and the class token where it is kept."""
    vision = config.vision_config
    if not isinstance(getattr(vision, "image_size", None), int) or vision.model_type == "pixtral":
        raise ModelError(
            f"LLaVA with a {vision.model_type!r} tower has images of variable size",
            field="model.config.vision_config",
            remedy="use adapter='generic' with layout=VisionLayout.from_spans(…)",
        )
    side = vision.image_size // vision.patch_size
    leading = 1 if config.vision_feature_select_strategy == "full" else 0
    return Picture((Panel.plain(1, side, side, leading=leading),))


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(LlavaAdapter())

"""ViP-LLaVA: the square view of LLaVA-v1.5, whose features are those of several encoder layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform
from lightkv.core.errors import ModelError


class VipLlavaAdapter(HFAdapter):
    """`VipLlavaForConditionalGeneration` with a CLIP tower."""

    name = "vipllava"
    models = "ViP-LLaVA"
    model_types = ("vipllava",)

    def encoder(self, model: nn.Module) -> Encoder | None:
        # The projector takes the layers' features side by side: still one row for each patch.
        inner: Any = model.model
        return clip_encoder(inner.multi_modal_projector, image=inner.vision_tower)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        vision = config.vision_config
        # The model drops the first token of every layer: in CLIP the class token, elsewhere a patch.
        if vision.model_type != "clip_vision_model":
            raise ModelError(
                f"ViP-LLaVA with a {vision.model_type!r} tower loses a patch of each image",
                field="model.config.vision_config",
                remedy="use adapter='generic' with layout=VisionLayout.from_spans(…)",
            )
        side = patches_per_side(vision)
        return uniform(Picture((PictureView.plain(1, side, side),)), here)

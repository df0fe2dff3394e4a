"""Video-LLaVA: square images, and videos whose every frame starts with its class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.families.llava import square_picture
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder
from lightkv.adapters.pictures.patches import Kind, layout_of
from lightkv.adapters.pictures.placing import Panel, Picture, uniform
from lightkv.core.layout import SEPARATOR, VisionLayout


class VideoLlavaAdapter(HFAdapter):
    """`VideoLlavaForConditionalGeneration`."""

    name = "video_llava"
    models = "Video-LLaVA"
    model_types = ("video_llava",)

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        inner: Any = model.model
        return [inner.image_tower, inner.video_tower]

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        towers = {"image": inner.image_tower, "video": inner.video_tower}
        return clip_encoder(inner.multi_modal_projector, **towers)

    def kinds(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Kind]:
        config: Any = model.config
        kinds = []
        here = inputs.placeholders(config.image_token_id)
        if here.any():
            kinds.append(Kind("image", here, uniform(square_picture(config), here)))
        here = inputs.placeholders(config.video_token_id)
        if here.any():
            videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
            side = config.vision_config.image_size // config.vision_config.patch_size
            kinds.append(Kind("video", here, [Picture((classed_frames(frames, side),))] * videos))
        return kinds

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        return layout_of(self.kinds(model, inputs), inputs)


def classed_frames(frames: int, side: int) -> Panel:
    """Frames of side² tokens, a separator (the class token) before each."""
    cells = np.arange(frames * side**2, dtype=np.int64).reshape(frames, side**2)
    first = np.full((frames, 1), SEPARATOR, dtype=np.int64)
    return Panel((frames, side, side), np.concatenate([first, cells], axis=1).reshape(-1))

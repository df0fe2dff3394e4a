"""Video-LLaVA: square images, and videos whose every frame starts with its class token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.families.llava import square_picture
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform
from lightkv.core.layout import SEPARATOR


class VideoLlavaAdapter(HFAdapter):
    """`VideoLlavaForConditionalGeneration`."""

    name = "video_llava"
    models = "Video-LLaVA"
    model_types = ("video_llava",)
    modalities = ("image", "video")

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        inner: Any = model.model
        return [inner.image_tower, inner.video_tower]

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        towers = {"image": inner.image_tower, "video": inner.video_tower}
        return clip_encoder(inner.multi_modal_projector, **towers)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return uniform(square_picture(config), here)

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
        return [classed_frames(frames, patches_per_side(config.vision_config))] * videos


def classed_frames(frames: int, side: int) -> Picture:
    """Frames of side² tokens, a separator (the class token) before each."""
    cells = np.arange(frames * side**2, dtype=np.int64).reshape(frames, side**2)
    first = np.full((frames, 1), SEPARATOR, dtype=np.int64)
    tokens = np.concatenate([first, cells], axis=1).reshape(-1)
    return Picture((PictureView((frames, side, side), tokens),))

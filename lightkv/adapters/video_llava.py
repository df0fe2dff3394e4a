"""Video-LLaVA: square images, and videos whose every frame starts with its class token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.adapters.llava import square_picture
from lightkv.adapters.placing import Panel, Picture, merge_rows, place, uniform
from lightkv.core.adapter import Adapter
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import SEPARATOR, VisionLayout


class VideoLlavaAdapter(HFAdapter):
    """`VideoLlavaForConditionalGeneration`."""

    name = "video_llava"
    models = "Video-LLaVA"
    model_types = ("video_llava",)

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        inner: Any = model.model
        return [inner.image_tower, inner.video_tower]

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        kinds = []
        here = inputs.placeholders(config.image_token_id)
        if here.any():
            pictures = uniform(square_picture(config), here)
            kinds.append(place(here, pictures, inputs.pads))
        here = inputs.placeholders(config.video_token_id)
        if here.any():
            videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
            side = config.vision_config.image_size // config.vision_config.patch_size
            pictures = [Picture((classed_frames(frames, side),))] * videos
            kinds.append(place(here, pictures, inputs.pads, what="video"))
        return merge_rows(inputs.length, inputs.pads, *kinds)


def classed_frames(frames: int, side: int) -> Panel:
    """Frames of side² tokens, a separator (the class token) before each."""
    cells = np.arange(frames * side**2, dtype=np.int64).reshape(frames, side**2)
    first = np.full((frames, 1), SEPARATOR, dtype=np.int64)
    return Panel((frames, side, side), np.concatenate([first, cells], axis=1).reshape(-1))


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(VideoLlavaAdapter())

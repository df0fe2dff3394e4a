"""LLaVA-NeXT-Video: images as in LLaVA-NeXT, videos as pooled frames without any separator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.adapters.llava_next import any_resolution, host_pairs
from lightkv.adapters.placing import Panel, Picture, merge_rows, place
from lightkv.core.adapter import Adapter
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import VisionLayout


class LlavaNextVideoAdapter(HFAdapter):
    """`LlavaNextVideoForConditionalGeneration`."""

    name = "llava_next_video"
    models = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        kinds = []
        here = inputs.placeholders(config.image_token_id)
        if here.any():
            sizes = host_pairs(inputs.geometry("image", "image_sizes"))
            pictures = [any_resolution(config, size) for size in sizes]
            kinds.append(place(here, pictures, inputs.pads))
        here = inputs.placeholders(config.video_token_id)
        if here.any():
            videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
            side = config.vision_config.image_size // config.vision_config.patch_size
            pooled = side // config.spatial_pool_stride
            pictures = [Picture((Panel.plain(frames, pooled, pooled),))] * videos
            kinds.append(place(here, pictures, inputs.pads, what="video"))
        return merge_rows(inputs.length, inputs.pads, *kinds)


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(LlavaNextVideoAdapter())

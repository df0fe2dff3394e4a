"""LLaVA-NeXT-Video: images as in LLaVA-NeXT, videos as pooled frames without any separator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.families.llava_next import any_resolution, host_pairs
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder
from lightkv.adapters.pictures.patches import Kind, layout_of
from lightkv.adapters.pictures.placing import Panel, Picture
from lightkv.core.layout import VisionLayout


class LlavaNextVideoAdapter(HFAdapter):
    """`LlavaNextVideoForConditionalGeneration`."""

    name = "llava_next_video"
    models = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        tower = inner.vision_tower
        return clip_encoder(inner.multi_modal_projector, image=tower, video=tower)

    def kinds(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Kind]:
        config: Any = model.config
        kinds = []
        here = inputs.placeholders(config.image_token_id)
        if here.any():
            sizes = host_pairs(inputs.geometry("image", "image_sizes"))
            kinds.append(Kind("image", here, [any_resolution(config, size) for size in sizes]))
        here = inputs.placeholders(config.video_token_id)
        if here.any():
            videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
            side = config.vision_config.image_size // config.vision_config.patch_size
            picture = pooled_frames(frames, side, config.spatial_pool_stride)
            kinds.append(Kind("video", here, [picture] * videos))
        return kinds

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        return layout_of(self.kinds(model, inputs), inputs)


def pooled_frames(frames: int, side: int, stride: int) -> Picture:
    """Frames of side² patches, of which a token pools `stride` × `stride`."""
    pooled = side // stride
    panel = Panel.plain(frames, pooled, pooled)
    frame, row, column = np.unravel_index(panel.cells, panel.grid)
    down, across = np.meshgrid(np.arange(stride), np.arange(stride), indexing="ij")
    rows = row[:, None] * stride + down.reshape(1, -1)
    columns = column[:, None] * stride + across.reshape(1, -1)
    patches = (frame[:, None] * side + rows) * side + columns
    return Picture((Panel(panel.grid, panel.cells, patches),), frames * side**2)

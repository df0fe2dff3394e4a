"""LLaVA-NeXT-Video: images as in LLaVA-NeXT, videos as pooled frames without any separator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.families.llava_next import LlavaNextAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import Encoder, clip_encoder, patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class LlavaNextVideoAdapter(LlavaNextAdapter):
    """`LlavaNextVideoForConditionalGeneration`."""

    name = "llava_next_video"
    models = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)
    modalities = ("image", "video")

    def encoder(self, model: nn.Module) -> Encoder | None:
        inner: Any = model.model
        tower = inner.vision_tower
        return clip_encoder(inner.multi_modal_projector, image=tower, video=tower)

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
        side = patches_per_side(config.vision_config)
        return [pooled_frames(frames, side, config.spatial_pool_stride)] * videos


def pooled_frames(frames: int, side: int, stride: int) -> Picture:
    """Frames of side² patches, of which a token pools `stride` × `stride`."""
    pooled = side // stride
    view = PictureView.plain(frames, pooled, pooled)
    frame, row, column = np.unravel_index(view.cells, view.grid)
    down, across = np.meshgrid(np.arange(stride), np.arange(stride), indexing="ij")
    rows = row[:, None] * stride + down.reshape(1, -1)
    columns = column[:, None] * stride + across.reshape(1, -1)
    patches = (frame[:, None] * side + rows) * side + columns
    return Picture((PictureView(view.grid, view.cells, patches),), frames * side**2)

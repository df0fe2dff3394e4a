"""LLaVA-OneVision: any-resolution images up to a largest area, several images, videos.

The only image of a sample is a base view and the unpadded grid of its tiles with a newline after each
row; a grid of more than `anyres_max` base views is resized to that area. Where a sample has several
images each is its base view and one newline. A video is its frames, pooled, and one newline at the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.families.llava_next import host_pairs, unpadded_grid
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Panel, Picture, merge_rows, place
from lightkv.core.layout import SEPARATOR, VisionLayout


class LlavaOnevisionAdapter(HFAdapter):
    """`LlavaOnevisionForConditionalGeneration`."""

    name = "llava_onevision"
    models = "LLaVA-OneVision"
    model_types = ("llava_onevision",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        kinds = []
        here = inputs.placeholders(config.image_token_id)
        if here.any():
            pictures = image_pictures(config, inputs)
            kinds.append(place(here, pictures, inputs.pads))
        here = inputs.placeholders(config.video_token_id)
        if here.any():
            videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
            pictures = [video_picture(config, frames)] * videos
            kinds.append(place(here, pictures, inputs.pads, what="video"))
        return merge_rows(inputs.length, inputs.pads, *kinds)


def image_pictures(config: Any, inputs: ModelInputs) -> list[Picture]:
    """Geometry of each image, in the order of the pixel inputs."""
    sizes = host_pairs(inputs.geometry("image", "image_sizes"))
    counts = inputs.optional("image", "batch_num_images")
    # Without counts the model takes every image for the only one of its sample.
    alone = [True] * len(sizes)
    if counts is not None:
        alone = [int(n) == 1 for n in counts for _ in range(int(n))]
    limit = inputs.optional("image", "vision_aspect_ratio") or config.vision_aspect_ratio
    most = int(str(limit).removeprefix("anyres_max_"))
    side = base_side(config)
    base = Panel.plain(1, side, side)
    pictures = []
    for size, only in zip(sizes, alone, strict=True):
        if only:
            rows, columns = limited_grid(config, size, most)
            pictures.append(Picture((base, Panel.plain(1, rows, columns, newline=True))))
        else:
            pictures.append(Picture((ended(base),)))
    return pictures


def base_side(config: Any) -> int:
    """Patches along a side of the base view."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def limited_grid(config: Any, size: tuple[int, int], most: int) -> tuple[int, int]:
    """Rows and columns of the tiles' grid of an image of `size` (height, width) pixels."""
    side = base_side(config)
    rows, columns = unpadded_grid(
        size, config.image_grid_pinpoints, config.vision_config.image_size, side
    )
    ratio = math.sqrt(rows * columns / (most * side**2))
    if ratio > 1.1:
        return int(rows // ratio), int(columns // ratio)
    return rows, columns


def video_picture(config: Any, frames: int) -> Picture:
    """Frames pooled 2 × 2 (rounded up), and the newline."""
    side = math.ceil(base_side(config) / 2)
    return Picture((ended(Panel.plain(frames, side, side)),))


def ended(panel: Panel) -> Panel:
    """The panel and one separator after it."""
    return Panel(panel.grid, np.append(panel.cells, SEPARATOR))

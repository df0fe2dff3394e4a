"""LLaVA-OneVision: any-resolution images up to a largest area, several images, videos.

The only image of a sample is a base view and the unpadded grid of its tiles with a newline after each
row; a grid of more than `anyres_max` base views is resized to that area. Where a sample has several
images each is its base view and one newline. A video is its frames, pooled, and one newline at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightkv.adapters.families.llava_next import tile_grid
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.any_resolution import unpadded_grid
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.core.layout import SEPARATOR


class LlavaOnevisionAdapter(HFAdapter):
    """`LlavaOnevisionForConditionalGeneration`."""

    name = "llava_onevision"
    models = "LLaVA-OneVision"
    model_types = ("llava_onevision",)
    modalities = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        sizes = inputs.sizes("image", "image_sizes")
        counts = inputs.optional("image", "batch_num_images")
        # Without counts the model takes every image for the only one of its sample.
        alone = [True] * len(sizes)
        if counts is not None:
            alone = [int(n) == 1 for n in counts for _ in range(int(n))]
        limit = inputs.optional("image", "vision_aspect_ratio") or config.vision_aspect_ratio
        most = int(str(limit).removeprefix("anyres_max_"))
        side = patches_per_side(config.vision_config)
        base = PictureView.plain(1, side, side)
        pictures = []
        for size, only in zip(sizes, alone, strict=True):
            if only:
                rows, columns = limited_grid(config, size, most)
                grid = PictureView.plain(1, rows, columns, newline=True)
                pictures.append(Picture((base, grid)))
            else:
                pictures.append(Picture((ended(base),)))
        return pictures

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
        # Pooled 2 × 2, rounded up.
        side = math.ceil(patches_per_side(config.vision_config) / 2)
        return [Picture((ended(PictureView.plain(frames, side, side)),))] * videos


def limited_grid(config: Any, size: tuple[int, ...], most: int) -> tuple[int, int]:
    """Rows and columns of the tiles' grid of an image of `size` (height, width) pixels."""
    side = patches_per_side(config.vision_config)
    canvas = tile_grid(size, config.image_grid_pinpoints, config.vision_config.image_size)
    rows, columns = unpadded_grid(size, canvas, side)
    ratio = math.sqrt(rows * columns / (most * side**2))
    if ratio > 1.1:
        return int(rows // ratio), int(columns // ratio)
    return rows, columns


def ended(view: PictureView) -> PictureView:
    """The view and one separator after it."""
    return PictureView(view.grid, np.append(view.cells, SEPARATOR))

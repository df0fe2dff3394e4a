"""LLaVA-NeXT: a square base view, then the unpadded any-resolution grid, a newline after each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_processing_utils import select_best_resolution

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.adapters.llava import square_picture
from lightkv.adapters.placing import Panel, Picture, merge_rows, place
from lightkv.core.adapter import Adapter
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import VisionLayout


class LlavaNextAdapter(HFAdapter):
    """`LlavaNextForConditionalGeneration`."""

    name = "llava_next"
    models = "LLaVA-NeXT (v1.6)"
    model_types = ("llava_next",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        sizes = host_pairs(inputs.geometry("image", "image_sizes"))
        pictures = [any_resolution(config, size) for size in sizes]
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


def host_pairs(sizes: Any) -> list[tuple[int, int]]:
    """`[(height, width), …]` on the host."""
    array = sizes.detach().cpu().numpy() if isinstance(sizes, torch.Tensor) else np.asarray(sizes)
    return [(int(height), int(width)) for height, width in array.reshape(-1, 2)]


def any_resolution(config: Any, size: tuple[int, int]) -> Picture:
    """Base view and stitched, unpadded grid of an image of `size` (height, width) pixels."""
    rows, columns = unpadded_grid(
        size, config.image_grid_pinpoints, config.vision_config.image_size, _side(config)
    )
    base = square_picture(config).panels[0]
    return Picture((base, Panel.plain(1, rows, columns, newline=True)))


def _side(config: Any) -> int:
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def unpadded_grid(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int, side: int
) -> tuple[int, int]:
    """Rows and columns of patches of the tiles' grid that show the picture and not its padding."""
    best = select_best_resolution(size, [list(point) for point in pinpoints])
    rows, columns = best[0] // tile * side, best[1] // tile * side
    height, width = size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - 2 * ((rows - used) // 2), columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - 2 * ((columns - used) // 2)


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(LlavaNextAdapter())

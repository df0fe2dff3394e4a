"""Gemma 4: patches with places, pooled to tokens; layers of two kinds, some without entries.

An image is as many rows and columns of patches as their places say; each square of a few of them is a
token, in raster order. In larger models the tokens of an image see one another, but for the unified one
in sliding layers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs, host_rows
from lightkv.adapters.hf.masks import image_blocks
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders

BLOCKS = "vision"
"""What the config calls attention in both directions inside images."""


class Gemma4Adapter(HFAdapter):
    """`Gemma4ForConditionalGeneration` and `Gemma4UnifiedForConditionalGeneration`."""

    name = "gemma4"
    models = "Gemma 4"
    model_types = ("gemma4", "gemma4_unified")
    modalities = ("image", "video")
    causal = False

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        sizes = token_grids(config, inputs.geometry("image", "image_position_ids"))
        return [Picture((PictureView.plain(1, *size),)) for size in sizes]

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        places = inputs.geometry("video", "video_position_ids")
        counts = inputs.optional("video", "num_frames_per_video")
        if counts is None:  # before 5.24 all videos have equally many frames
            counts = [places.shape[1]] * places.shape[0]
        sizes, counts = token_grids(config, places.reshape(-1, *places.shape[-2:])), list(counts)
        first = [sum(counts[:number]) for number in range(len(counts))]
        return [
            Picture((PictureView.plain(int(frames), *sizes[int(start)]),))
            for frames, start in zip(counts, first, strict=True)
        ]

    def blocked(self, model: nn.Module) -> frozenset[int] | None:
        config: Any = self.decoder(model).config
        if config.use_bidirectional_attention != BLOCKS:
            return frozenset()
        if config.model_type != "gemma4_text":
            return None  # the unified model makes them in all layers
        windows = enumerate(self.windows(model))
        return frozenset(layer for layer, window in windows if window is not None)

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        types = inputs.arguments.get("mm_token_type_ids")
        return None if types is None else image_blocks(((types == 1) | (types == 2)).long())


def token_grids(config: Any, places: torch.Tensor) -> list[tuple[int, int]]:
    """Rows and columns of tokens of pictures whose patches have `places` `[n, P, 2]` (column, row).

    Waits for the device, once in a prefill. Places of padding are negative.
    """
    # The unified model has no tower: its patches are as large as tokens.
    pooled = config.model_type == "gemma4"
    side = config.vision_config.pooling_kernel_size if pooled else 1
    return [((y + 1) // side, (x + 1) // side) for x, y in host_rows(places.amax(dim=1))]

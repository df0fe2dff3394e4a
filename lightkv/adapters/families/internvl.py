"""InternVL (transformers-native): tiles of one picture stitched into a view, then the thumbnail.

Each tile has `image_seq_length` tokens in raster order; tiles come row by row, the thumbnail last when
there is more than one tile. Inputs do not say how the tiles lie; `tiles.arrangement` reads it off the
pixels. Every video frame is a picture of one tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import (
    Panel,
    Picture,
    merge_rows,
    originals,
    place,
    run_lengths,
)
from lightkv.adapters.pictures.tiles import arrangement
from lightkv.core.errors import LayoutError
from lightkv.core.layout import VisionLayout


class InternVLAdapter(HFAdapter):
    """`InternVLForConditionalGeneration`."""

    name = "internvl"
    models = "InternVL (native checkpoints)"
    model_types = ("internvl",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        pixels = inputs.geometry("image", "pixel_values")
        pictures = tiled_pictures(here, pixels, config.image_seq_length)
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


def tiled_pictures(here: Any, pixels: torch.Tensor, per_tile: int) -> list[Picture]:
    """Pictures from runs of placeholders and the tiles `[tiles, C, S, S]` in the same order."""
    runs = run_lengths(originals(here, len(pixels) * per_tile))
    if any(run % per_tile for run in runs):
        raise LayoutError(
            f"a run of {max(runs)} image placeholders is no multiple of {per_tile}",
            field="input_ids",
            remedy="let the processor expand the placeholders",
        )
    ends = np.cumsum([run // per_tile for run in runs], dtype=np.int64)
    return [
        tiled_picture(pixels[end - run // per_tile : end], per_tile)
        for run, end in zip(runs, ends, strict=True)
    ]


def tiled_picture(tiles: torch.Tensor, per_tile: int) -> Picture:
    """One picture of tiles `[n, C, S, S]`, the last a thumbnail if n > 1."""
    side = round(per_tile**0.5)
    whole = Panel.plain(1, side, side)
    count = tiles.shape[0]
    if count <= 1:
        return Picture((whole,))
    rows, columns = arrangement(tiles[:-1], tiles[-1])
    return Picture((Panel.mosaic(rows, columns, side), whole))

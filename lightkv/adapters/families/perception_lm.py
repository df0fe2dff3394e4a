"""Perception LM: a thumbnail, then the tiles of the picture row by row; videos of whole frames.

All pictures of a batch have as many tiles. Their tokens follow one another, nothing between them,
and neither config nor inputs say how many a tile takes: the runs of placeholders do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, run_lengths
from lightkv.adapters.pictures.tiles import arrangement
from lightkv.core.errors import LayoutError


class PerceptionLMAdapter(HFAdapter):
    """`PerceptionLMForConditionalGeneration`."""

    name = "perception_lm"
    models = "Perception LM"
    model_types = ("perception_lm",)
    modalities = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        pixels = inputs.geometry("image", "pixel_values")
        side = side_of(here, pixels.shape[1])
        whole, pictures = PictureView.plain(1, side, side), []
        for tiles in pixels:
            views = [whole]
            if len(tiles) > 1:
                views.append(PictureView.mosaic(*arrangement(tiles[1:], tiles[0]), side))
            pictures.append(Picture(tuple(views)))
        return pictures

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        videos, frames = inputs.geometry("video", "pixel_values_videos").shape[:2]
        side = side_of(here, frames)
        return [Picture((PictureView.plain(frames, side, side),))] * videos


def side_of(here: Placeholders, tiles: int) -> int:
    """Tokens along the side of a tile, where a picture is a run of `tiles` squares."""
    shortest = min(run_lengths(here))
    side = math.isqrt(shortest // tiles)
    if side * side * tiles != shortest:
        raise LayoutError(
            f"a run of {shortest} placeholders is not {tiles} squares",
            field="input_ids",
            remedy="let the processor expand the placeholders, and write text between two pictures",
        )
    return side

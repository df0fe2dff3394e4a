"""Ovis 2: a small copy of the picture, then its tiles row by row, with indicators between them.

An indicator ends each row of tiles, another each tile within a row, so the ids say how the tiles lie.
Indicators are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.adapters.pictures.tiles import square_runs
from lightkv.core.layout import IntArray

Runs = Sequence[tuple[int, int]]


class Ovis2Adapter(HFAdapter):
    """`Ovis2ForConditionalGeneration`."""

    name = "ovis2"
    models = "Ovis 2"
    model_types = ("ovis2",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        vision = config.vision_config
        side = -(-patches_per_side(vision) // vision.hidden_stride)
        start, _, _, row, _ = config.visual_indicator_token_ids
        assert inputs.input_ids is not None
        pictures = []
        for ids, own in zip(inputs.input_ids, here, strict=True):
            tiles = square_runs(own, side**2)
            firsts = [n for n, (begin, _) in enumerate(tiles) if ids[begin - 1] == start]
            edges = [*firsts, len(tiles)]
            pictures += [picture(ids, tiles[a:b], side, row) for a, b in pairwise(edges)]
        return pictures


def picture(ids: IntArray, tiles: Runs, side: int, row: int) -> Picture:
    """The picture whose small copy and tiles stand at these runs; `row` is the id after a row."""
    whole = PictureView.plain(1, side, side)
    if len(tiles) == 1:
        return Picture((whole,))
    rows = 1 + sum(int(ids[end] == row) for _, end in tiles[1:])
    return Picture((whole, PictureView.mosaic(rows, (len(tiles) - 1) // rows, side)))

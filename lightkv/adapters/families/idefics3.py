"""Idefics3 and SmolVLM: tiles of one picture stitched into a view, then the whole picture.

Each tile is a run of placeholders behind a tag that is text: `<row_i_col_j>` for tiles, one and the same
global tag for the whole picture, which ends every picture. A line break follows each row of tiles.
So the ids alone say how the tiles lie. Frames of a video are pictures of one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.adapters.pictures.tiles import square_runs
from lightkv.core.layout import IntArray

WITHIN_A_ROW = 2
"""Text tokens between two tiles of one row: the token around images, and the tag."""


class Idefics3Adapter(HFAdapter):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration`."""

    name = "idefics3"
    models = "Idefics3, SmolVLM, SmolVLM2"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = patches_per_side(config.vision_config) // config.scale_factor
        assert inputs.input_ids is not None
        rows = zip(inputs.input_ids, here, strict=True)
        return [picture for ids, row in rows for picture in row_pictures(ids, row, side)]


def row_pictures(ids: IntArray, here: Placeholders, side: int) -> list[Picture]:
    """Pictures of one row `[N]`, from the tags before its runs of placeholders."""
    whole = PictureView.plain(1, side, side)
    return [
        Picture((*tile_views(tiles[:-1], side), whole))
        for tiles in tagged_pictures(ids, square_runs(here, side**2))
    ]


def tagged_pictures(ids: IntArray, tiles: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The tiles of each picture of a row `[N]`: the last has the same tag in all of them.

    The whole picture comes last, so the last tag of a row is the global one. (Where a tokenizer splits
    tags, the tag reads as its last part; equal parts make every tile a picture: no harm.)
    """
    pictures: list[list[tuple[int, int]]] = [[]]
    for tile in tiles:
        pictures[-1].append(tile)
        if tag_before(ids, tile) == tag_before(ids, tiles[-1]):
            pictures.append([])
    return pictures[:-1]


def tag_before(ids: IntArray, run: tuple[int, int]) -> int:
    """The id before a run of placeholders, −1 where there is none."""
    return int(ids[run[0] - 1]) if run[0] else -1


def tile_views(tiles: Sequence[tuple[int, int]], side: int) -> list[PictureView]:
    """The stitched view of the tiles at these runs; a view for each if they form no rectangle."""
    return stitched([a[0] - b[1] > WITHIN_A_ROW for b, a in pairwise(tiles)], side) if tiles else []


def stitched(ends: Sequence[bool], side: int) -> list[PictureView]:
    """The view of tiles of which `ends` says, for all but the last, whether a row ends behind it."""
    count, rows = len(ends) + 1, 1 + sum(ends)
    columns = count // rows
    if all(end == ((i + 1) % columns == 0) for i, end in enumerate(ends)):
        return [PictureView.mosaic(rows, columns, side)]
    return [PictureView.plain(1, side, side)] * count

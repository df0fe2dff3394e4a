"""Command A Vision and Aya Vision: tiles row by row, then a thumbnail where there are several tiles.

Text tokens part the tiles. Rotary tables reach every layer, but only sliding layers use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lightkv.adapters.families.idefics3 import tagged_pictures
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, Placeholders, originals
from lightkv.adapters.pictures.tiles import counted_pictures, square_runs
from lightkv.core.layout import IntArray

Runs = list[tuple[int, int]]


class Cohere2VisionAdapter(HFAdapter):
    """`Cohere2VisionForConditionalGeneration`: one line break behind each tile."""

    name = "cohere2_vision"
    models = "Command A Vision"
    model_types = ("cohere2_vision",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        pixels = inputs.geometry("image", "pixel_values")
        per_tile = (patches_per_side(config.vision_config) // config.downsample_factor) ** 2
        times = len(here) // len(originals(here, len(pixels) * per_tile))
        assert inputs.input_ids is not None
        rows = zip(inputs.input_ids[::times], here[::times], strict=True)
        counts = [n for ids, row in rows for n in self.counts(ids, square_runs(row, per_tile))]
        return counted_pictures(counts, pixels, per_tile)

    def counts(self, ids: IntArray, tiles: Runs) -> list[int]:
        """Tiles of each picture of a row `[N]`, thumbnails included."""
        ends = [n for n, (one, next) in enumerate(pairwise(tiles), 1) if next[0] - one[1] > 1]
        edges = [0, *ends, len(tiles)]
        return [end - start for start, end in pairwise(edges) if end > start]


class AyaVisionAdapter(Cohere2VisionAdapter):
    """`AyaVisionForConditionalGeneration`: a tag before each tile, the same before all thumbnails."""

    name = "aya_vision"
    models = "Aya Vision"
    model_types = ("aya_vision",)

    def counts(self, ids: IntArray, tiles: Runs) -> list[int]:
        return [len(picture) for picture in tagged_pictures(ids, tiles)]

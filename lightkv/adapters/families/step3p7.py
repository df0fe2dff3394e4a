"""Step 3.7: square tiles row by row, then a larger square of the whole picture.

A line break stands behind each row of tiles but the last. Small pictures have no tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightkv.adapters.families.deepseek_ocr2 import crop_counts
from lightkv.adapters.families.idefics3 import tile_views
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, originals, runs
from lightkv.core.errors import LayoutError

DOWNSAMPLED = 4
"""Patches of a side that the tower's two convolutions make one of."""


class Step3p7Adapter(HFAdapter):
    """`Step3p7ForConditionalGeneration`."""

    name = "step3p7"
    models = "Step 3.7"
    model_types = ("step3p7",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        wholes = inputs.geometry("image", "pixel_values")
        tiles = inputs.optional("image", "pixel_values_local")
        counts = crop_counts(inputs, len(wholes))
        large, small = (0 if p is None else side_of(config, p) for p in (wholes, tiles))
        offered = sum(counts) * small**2 + len(wholes) * large**2
        found = [run for row in originals(here, offered) for run in runs(row)]
        wanted = [side for n in counts for side in (*[small] * n, large)]
        if [end - start for start, end in found] != [side**2 for side in wanted]:
            raise LayoutError(
                f"runs of placeholders are no tiles of {small}² and pictures of {large}² tokens",
                field="input_ids",
                remedy="let the processor expand the placeholders",
            )
        whole, pictures = PictureView.plain(1, large, large), []
        for count in counts:
            own, found = found[:count], found[count + 1 :]
            pictures.append(Picture((*tile_views(own, small), whole)))
        return pictures


def side_of(config: Any, pixels: torch.Tensor) -> int:
    """Tokens along the side of one of `pixels` `[n, C, S, S]`."""
    return int(pixels.shape[-1] // (config.vision_config.patch_size * DOWNSAMPLED))

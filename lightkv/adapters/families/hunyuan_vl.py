"""HunYuan-VL: dynamic grids with a token at the end of each row, and one before and behind a picture.

These have no pixels of their own. Rotary positions have four axes, merged into one (cos, sin) before the
layers: the place in the sequence, column, row and the number of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.core.layout import SEPARATOR


class HunYuanVLAdapter(HFAdapter):
    """`HunYuanVLForConditionalGeneration`."""

    name = "hunyuan_vl"
    models = "HunYuan-VL, HunyuanOCR"
    model_types = ("hunyuan_vl",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        merge = config.vision_config.spatial_merge_size
        grids = inputs.sizes("image", "image_grid_thw")
        return [wrapped(frames, rows // merge, columns // merge) for frames, rows, columns in grids]


def wrapped(frames: int, rows: int, columns: int) -> Picture:
    """Rows that end in a token, between two others."""
    view = PictureView.plain(frames, rows, columns, leading=1, newline=True)
    return Picture((PictureView(view.grid, np.append(view.cells, SEPARATOR)),))

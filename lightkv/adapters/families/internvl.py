"""InternVL (transformers-native), Qianfan-OCR: tiles stitched into a view, then the thumbnail.

Each tile has `image_seq_length` tokens in raster order; tiles come row by row, the thumbnail last when
there is more than one tile. Inputs do not say how the tiles lie; `tiles.arrangement` reads it off the
pixels. Every video frame is a picture of one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders
from lightkv.adapters.pictures.tiles import tiled_pictures


class InternVLAdapter(HFAdapter):
    """`InternVLForConditionalGeneration` and `QianfanOCRForConditionalGeneration`."""

    name = "internvl"
    models = "InternVL (native checkpoints), Qianfan-OCR"
    model_types = ("internvl", "qianfan_ocr")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        pixels = inputs.geometry("image", "pixel_values")
        return tiled_pictures(here, pixels, config.image_seq_length)

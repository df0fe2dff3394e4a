"""GOT-OCR 2 and PP-Chart2Table: squares of tokens, one for each page, or each tile and the thumbnail.

Pages and tiles of a picture follow one another in the same way, so that nobody can tell them apart: each
square is a view of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.vision_tower import patches_per_side
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform

HALVED = 4
"""Patches of a side that the projector's two convolutions make one of."""


class GotOcr2Adapter(HFAdapter):
    """`GotOcr2ForConditionalGeneration`."""

    name = "got_ocr2"
    models = "GOT-OCR 2, PP-Chart2Table"
    model_types = ("got_ocr2", "pp_chart2table")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        side = patches_per_side(config.vision_config) // HALVED
        return uniform(Picture((PictureView.plain(1, side, side),)), here)

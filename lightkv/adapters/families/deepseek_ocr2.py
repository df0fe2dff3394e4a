"""DeepSeek-OCR 2: learned queries read the crops of a page, then all of it; a separator ends the page.

A query looks at all patches of its crop and at the queries before it, so it stands nowhere in it: the
tokens of each crop are a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders
from lightkv.core.layout import SEPARATOR

FEW, MANY = 144, 256
"""Queries of the two tables: the larger one reads what has more patches than the smaller has queries."""
DOWNSAMPLED = 4
"""Patches of a side that become one behind the tower."""


class DeepseekOcr2Adapter(HFAdapter):
    """`DeepseekOcr2ForConditionalGeneration`."""

    name = "deepseek_ocr2"
    models = "DeepSeek-OCR 2"
    model_types = ("deepseek_ocr2",)
    geometry: ClassVar[str] = "strip"

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        pages = inputs.geometry("image", "pixel_values")
        crops = inputs.optional("image", "pixel_values_local")
        counts = crop_counts(inputs, len(pages))
        whole = strip(config, pages)
        page = PictureView(whole.grid, np.append(whole.cells, SEPARATOR))
        return [Picture((*[strip(config, crops)] * count, page)) for count in counts]


def crop_counts(inputs: ModelInputs, pictures: int) -> list[int]:
    """Crops of each picture."""
    given = inputs.optional("image", "num_local_patches")
    return [0] * pictures if given is None else [int(count) for count in given]


def strip(config: Any, pixels: torch.Tensor) -> PictureView:
    """The tokens of one of `pixels` `[n, C, H, W]`."""
    step = config.vision_config.sam_config.patch_size * DOWNSAMPLED
    patches = (pixels.shape[-2] // step) * (pixels.shape[-1] // step)
    return PictureView.plain(1, 1, FEW if patches <= FEW else MANY)

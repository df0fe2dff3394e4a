"""FastVLM: one raster of the cells that a convolutional tower leaves of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders

CELL = 64
"""Pixels along the side of a cell, in FastViTHD and every other tower that the class takes."""


class FastVLMAdapter(HFAdapter):
    """`FastVlmForConditionalGeneration`."""

    name = "fast_vlm"
    models = "FastVLM"
    model_types = ("fast_vlm",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        count, _, height, width = inputs.geometry("image", "pixel_values").shape
        return [Picture((PictureView.plain(1, height // CELL, width // CELL),))] * count

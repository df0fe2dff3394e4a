"""Apertus 1.5: images of their own size, a code for each square of pixels, a break after each row.

The codes of a picture are looked up among the embeddings of the text and take the places of
placeholders. Codes of sound do the same; they are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class Apertus1p5Adapter(HFAdapter):
    """`Apertus1p5ForConditionalGeneration`."""

    name = "apertus1p5"
    models = "Apertus 1.5"
    model_types = ("apertus1p5",)

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.model.vision_tokenizer]  # type: ignore[union-attr,list-item]

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        step = config.vision_config.spatial_scale_factor
        return [
            Picture((PictureView.plain(1, height // step, width // step),))
            for height, width in inputs.sizes("image", "image_sizes")
        ]

"""Aria: a resampler makes a fixed number of latents of each image, or of each crop of it.

Every latent looks at all of its image, so it stands nowhere in it: the tokens are a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform


class AriaAdapter(HFAdapter):
    """`AriaForConditionalGeneration`."""

    name = "aria"
    models = "Aria"
    model_types = ("aria",)
    geometry: ClassVar[str] = "strip"

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        height, width = inputs.geometry("image", "pixel_values").shape[-2:]
        patch = config.vision_config.patch_size
        latents = config.projector_patch_to_query_dict[(height // patch) * (width // patch)]
        return uniform(Picture((PictureView.plain(1, 1, latents),)), here)

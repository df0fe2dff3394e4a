"""Idefics2: a resampler makes a fixed number of latents of each image, or of each part of it.

Every latent looks at all of its image, so it stands nowhere in it: the tokens are a strip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, uniform


class Idefics2Adapter(HFAdapter):
    """`Idefics2ForConditionalGeneration`."""

    name = "idefics2"
    models = "Idefics2"
    model_types = ("idefics2",)
    geometry: ClassVar[str] = "strip"

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        latents = config.perceiver_config.resampler_n_latents
        return uniform(Picture((PictureView.plain(1, 1, latents),)), here)

"""Kimi K2.5: dynamic grids, frames merged over time; a decoder that caches latents (MLA).

What is cached of a token is one latent for all heads and one rotary part of their keys. Both are entries
like any other; attention sees the keys that are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class KimiK25Adapter(HFAdapter):
    """`Kimi_K25ForConditionalGeneration`."""

    name = "kimi_k25"
    models = "Kimi K2.5"
    model_types = ("kimi_k25",)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        down, across = config.vision_config.merge_kernel_size
        grids = inputs.sizes("image", "image_grid_thw")
        # All frames become one.
        return [
            Picture((PictureView.plain(1, rows // down, columns // across),))
            for _, rows, columns in grids
        ]

"""Molmo 2: each image is a small view of the whole and a large one, one grid of overlapping crops.

Pictures and videos have one placeholder between them, and a prompt holds either the ones or the other.
All vision tokens of a row, with the tokens around them, form one block that sees all of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.contact import ENCODED
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class Molmo2Adapter(HFAdapter):
    """`Molmo2ForConditionalGeneration`."""

    name = "molmo2"
    models = "Molmo 2"
    model_types = ("molmo2",)
    modalities = ("image", "video")
    causal = False

    def placeholders(self, config: Any, inputs: ModelInputs, modality: str) -> Placeholders:
        here = super().placeholders(config, inputs, modality)
        made = inputs.arguments.get(ENCODED) or {}
        return here if modality in inputs.pixels or modality in made else np.zeros_like(here)

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return [
            Picture((PictureView.plain(1, *grid[:2]), PictureView.plain(1, *grid[2:])))
            for grid in inputs.sizes("image", "image_grids")
        ]

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        grids = inputs.sizes("video", "video_grids")
        return [Picture((PictureView.plain(*grid),)) for grid in grids]

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        kinds = inputs.arguments.get("mm_token_type_ids")
        return None if kinds is None else torch.where(kinds == 1, 0, -1)

    def rotary_kind(self, decoder: nn.Module, layer: int) -> str | None:
        return decoder.rope_types[layer]  # type: ignore[index,return-value]

    def rotary(
        self,
        decoder: nn.Module,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        kind: str | None = None,
    ) -> Any:
        # Where a checkpoint names the layers whose tables are scaled, the others have their own.
        emb: Any = decoder.rotary_emb_unscaled if kind == "unscaled" else decoder.rotary_emb
        return emb(hidden, position_ids=positions[0])

"""EVE-7B and EVE-7B-HD in their own code (`EVELlamaForCausalLM`): patches straight into a Llama.

Written from the published attribute layout (baaivision/EVE, EVEv1, state of July 2025). The ids hold
one sentinel for each image; the model's forward puts a run of embeddings in its place: a class token,
then each row of patches with a split token after it. How many rows and columns there are is known to
the tokenizer of patches (`model.vision_tower`) only, which returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Pictures, PictureView
from lightkv.adapters.remote.adapter import RemoteAdapter
from lightkv.adapters.remote.sentinels import SENTINEL, expanded, number_of
from lightkv.core.errors import LayoutError


class EVEAdapter(RemoteAdapter):
    """`EVELlamaForCausalLM` (EVEv1)."""

    name = "eve"
    models = "EVE-7B, EVE-7B-HD (original code)"
    class_name = "EVELlamaForCausalLM"

    def decoder(self, model: nn.Module) -> nn.Module:
        return model.model  # type: ignore[return-value]

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [self.decoder(model).vision_tower]  # type: ignore[list-item]

    def geometry_module(self, model: nn.Module) -> nn.Module:
        return self.decoder(model).vision_tower  # type: ignore[return-value]

    def geometry_of(self, output: Any) -> Kwargs:
        return {"image_sizes": output[1]}

    def text_config(self, config: Any) -> Any:
        return config

    def with_pixels(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
        images, ids = arguments.get("images"), arguments.get("input_ids")
        if images is None or ids is None or ids.shape[1] == 1:
            return arguments
        found, given = int((ids == SENTINEL).sum()), number_of(images)
        if found != given:
            raise LayoutError(
                f"the ids hold {found} image sentinels ({SENTINEL}), but {given} images were given",
                field="input_ids",
                value=found,
                remedy="tokenize with tokenizer_image_token, one <image> for each image, and run "
                "prompts without images on their own, without `images`",
            )
        return {**arguments, "pixel_values": images}

    def projections(self, attention: nn.Module) -> Sequence[nn.Module]:
        return [attention.q_proj, attention.k_proj]  # type: ignore[list-item]

    def query_key(
        self, attention: nn.Module, outputs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        width: Any = attention.head_dim
        query, key = (out.view(*out.shape[:2], -1, width).transpose(1, 2) for out in outputs)
        return query, key

    def pictures(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Pictures]:
        sizes = inputs.geometry("image", "image_sizes")
        pictures = [picture(*(int(side) for side in size)) for size in sizes]
        assert inputs.input_ids is not None
        here = expanded(inputs.input_ids, pictures, inputs.length, code="EVE")
        return [Pictures("image", here, pictures)]


def picture(rows: int, columns: int) -> Picture:
    """Class token, then rows of patches with a split token after each."""
    return Picture((PictureView.plain(1, rows, columns, leading=1, newline=True),))

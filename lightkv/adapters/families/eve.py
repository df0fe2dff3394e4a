"""EVE-7B and EVE-7B-HD in their own code (`EVELlamaForCausalLM`): patches straight into a Llama.

Written from the published attribute layout (baaivision/EVE, EVEv1, state of July 2025). The ids hold
one sentinel for each image; the model's forward puts a run of embeddings in its place: a class token,
then each row of patches with a split token after it. How many rows and columns there are is known to
the tokenizer of patches (`model.vision_tower`) only, which returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Panel, Picture, merge_rows, place
from lightkv.adapters.remote.adapter import RemoteAdapter
from lightkv.core.errors import LayoutError
from lightkv.core.layout import VisionLayout

SENTINEL = -200
"""What stands for an image in `input_ids`."""


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

    def seen(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
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

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        sizes = inputs.geometry("image", "image_sizes")
        pictures = [picture(*(int(side) for side in size)) for size in sizes]
        assert inputs.input_ids is not None
        here = expanded(inputs.input_ids, pictures, inputs.length)
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


def number_of(images: Any) -> int:
    """Images in a list, in `[n, 4, S, S]` or in `[B, n, 4, S, S]`."""
    if isinstance(images, torch.Tensor) and images.dim() == 5:
        return int(images.shape[0] * images.shape[1])
    return len(images)


def picture(rows: int, columns: int) -> Picture:
    """Class token, then rows of patches with a split token after each."""
    return Picture((Panel.plain(1, rows, columns, leading=1, newline=True),))


def expanded(
    ids: npt.NDArray[np.int64], pictures: Sequence[Picture], length: int
) -> npt.NDArray[np.bool_]:
    """`[B, length]` true at vision tokens, from ids `[B, N]` with a sentinel for each picture.

    Raises:
        LayoutError: rows of different lengths, which the model pads on the right; or another
            number of pictures than sentinels.
    """
    remaining = iter(pictures)
    rows = []
    for number, row in enumerate(ids):
        parts = []
        for token in row:
            found = next(remaining, None) if token == SENTINEL else None
            if token == SENTINEL and found is None:
                raise LayoutError(
                    f"there are more image sentinels ({SENTINEL}) than images",
                    field="input_ids",
                    value=int((ids == SENTINEL).sum()),
                    remedy="give one image for each",
                )
            parts.append(np.full(1 if found is None else found.tokens, found is not None))
        rows.append(np.concatenate(parts))
        if rows[-1].size != length:
            raise LayoutError(
                f"row {number} has {rows[-1].size} positions after its images were put in, but the "
                f"batch has {length}: EVE pads on the right, and generation would continue after "
                "the padding",
                field="input_ids",
                remedy="run prompts one by one, or batch prompts of equal length with images of "
                "one size",
            )
    return np.stack(rows)

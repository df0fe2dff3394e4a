"""EVE-7B and EVE-7B-HD in their own code (`EVELlamaForCausalLM`): patches straight into a Llama.

The decoder is the installed Llama. The ids hold one sentinel for each image; the model's forward puts a
run of embeddings in its place: a class token, then each row of patches with a split token after it. How
many rows and columns there are follows from the fourth channel of an image, which says where it is no
padding, and from the strides of the tokenizer of patches (`model.vision_tower`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Pictures, PictureView
from lightkv.adapters.remote.expanding import ExpandingAdapter
from lightkv.adapters.remote.sentinels import SENTINEL, expanded
from lightkv.core.errors import LayoutError, ModelError

WITHOUT_PICTURE = 16
"""Side, in patches, of what the code takes of an image that is padding alone."""


class EVEAdapter(ExpandingAdapter):
    """`EVELlamaForCausalLM` (EVEv1)."""

    name = "eve"
    models = "EVE-7B, EVE-7B-HD (original code)"
    class_name = "EVELlamaForCausalLM"

    def decoder(self, model: nn.Module) -> nn.Module:
        return model.model  # type: ignore[return-value]

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [self.decoder(model).vision_tower]  # type: ignore[list-item]

    def with_pixels(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
        images, ids = arguments.get("images"), arguments.get("input_ids")
        if ids is None:
            raise ModelError(
                "EVE's own forward takes ids, and drops embeddings",
                field="inputs_embeds",
                remedy="pass input_ids, or call the decoder (model.model) and give the spans: "
                "compress(model, …, layout=VisionLayout.from_spans(…))",
            )
        if images is None or ids.shape[1] == 1:
            return arguments
        check_images(images)
        found = int((ids == SENTINEL).sum())
        if found != len(images):
            raise LayoutError(
                f"the ids hold {found} image sentinels ({SENTINEL}), but {len(images)} images were "
                "given",
                field="input_ids",
                value=found,
                remedy="tokenize with tokenizer_image_token, one <image> for each image, and run "
                "prompts without images on their own, without `images`",
            )
        mask = arguments.get("attention_mask")
        if mask is not None and not bool(mask.all()):
            raise LayoutError(
                "EVE's own code lengthens the mask on its left, whatever stands there: padding moves "
                "into the row, and hides tokens of the prompt",
                field="attention_mask",
                remedy="run prompts with images one by one, or batch prompts of equal length",
            )
        return {**arguments, "pixel_values": images}

    def pictures(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Pictures]:
        tower: Any = self.decoder(model).vision_tower
        sizes = cells_of(inputs.arguments["pixel_values"], tower.patch_stride, tower.conv_stride)
        pictures = [picture(*size) for size in sizes]
        assert inputs.input_ids is not None
        here = expanded(inputs.input_ids, pictures, inputs.length, code="EVE")
        return [Pictures("image", here, pictures)]


def check_images(images: Any) -> None:
    """Refuse images at which the published code ends the process (`exit`).

    Raises:
        LayoutError: a list, or other than four dimensions and four channels.
    """
    if isinstance(images, torch.Tensor) and images.dim() == 4 and images.shape[1] == 4:
        return
    shape = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
    raise LayoutError(
        "EVE's own code takes all images of a call in one tensor [n, 4, S, S] (red, green, blue, and "
        "where the image is), and ends the process at a list or five dimensions",
        field="images",
        value=shape,
        remedy="torch.cat them, in the order of their sentinels",
    )


def cells_of(images: torch.Tensor, patch: int, pooled: int) -> list[tuple[int, int]]:
    """Rows and columns of the cells of each image `[n, 4, S, S]`.

    Args:
        images: the last channel is 1 where the image is, over whole patches.
        patch: pixels of a patch's side.
        pooled: patches of a cell's side.
    """
    out = []
    for real in (images[:, -1, ::patch, ::patch] != 0).cpu().numpy():
        rows, columns = WITHOUT_PICTURE, WITHOUT_PICTURE
        if real.any():
            places = np.argwhere(real)
            rows, columns = (int(side) + 1 for side in places[-1] - places[0])
        out.append((rows // pooled, columns // pooled))
    return out


def picture(rows: int, columns: int) -> Picture:
    """Class token, then rows of patches with a split token after each."""
    return Picture((PictureView.plain(1, rows, columns, leading=1, newline=True),))

"""Phi-4 multimodal: stitched crops, a separator, the whole picture, rows ended by one; and recordings.

The mask of a picture says how much of its crops is no padding: as many rows and columns are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders, recording


class Phi4MultimodalAdapter(HFAdapter):
    """`Phi4MultimodalForCausalLM`."""

    name = "phi4_multimodal"
    models = "Phi-4 multimodal"
    model_types = ("phi4_multimodal",)
    modalities = ("image", "audio")

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.model.embed_tokens_extend]  # type: ignore[union-attr,list-item]

    def placeholders(self, config: Any, inputs: ModelInputs, modality: str) -> Placeholders:
        part = config.vision_config if modality == "image" else config.audio_config
        return inputs.placeholders(getattr(part, f"{modality}_token_id"))

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        vision = config.vision_config
        side = -(-vision.image_size // vision.patch_size // 2)
        crops = [
            (h // vision.crop_size, w // vision.crop_size)
            for h, w in inputs.sizes("image", "image_sizes")
        ]
        masks = inputs.geometry("image", "image_attention_mask").bool().cpu().numpy()
        whole = PictureView.plain(1, side, side, leading=1, newline=True)
        return [
            Picture((PictureView.plain(1, *shown(mask, *grid), newline=True), whole))
            for mask, grid in zip(masks, crops, strict=True)
        ]

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        sizes = inputs.geometry("audio", "audio_embed_sizes")
        return [recording(int(size)) for size in np.asarray(sizes).reshape(-1)]


def shown(mask: Any, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of tokens in `rows` × `columns` stitched crops that are no padding.

    Args:
        mask: `[crops, patches, patches]` of a picture, the whole picture first.
    """
    crops = mask[1 : rows * columns + 1, ::2, ::2]
    side = crops.shape[-1]
    stitched = crops.reshape(rows, columns, side, side).transpose(0, 2, 1, 3)
    stitched = stitched.reshape(rows * side, columns * side)
    return int(stitched[:, 0].sum()), int(stitched[0].sum())

"""Qwen2-VL and Qwen2.5-VL: a dynamic grid for each picture, multimodal rotary positions.

Tokens of a picture come frame by frame in raster order of (t, h / merge, w / merge); window
reordering inside the Qwen2.5 tower is undone there. The three rotary axes are merged into one
(cos, sin) before the layers, so survivors that keep their positions need nothing special.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Panel, Picture, merge_rows, place
from lightkv.core.layout import VisionLayout


class QwenVLAdapter(HFAdapter):
    """`Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration`."""

    name = "qwen_vl"
    models = "Qwen2-VL, Qwen2.5-VL"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.model.visual]  # type: ignore[union-attr,list-item]

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        merge = config.vision_config.spatial_merge_size
        kinds = []
        for modality, token, name in (
            ("image", config.image_token_id, "image_grid_thw"),
            ("video", config.video_token_id, "video_grid_thw"),
        ):
            here = inputs.placeholders(token)
            if here.any():
                pictures = grid_pictures(inputs.geometry(modality, name), merge)
                kinds.append(place(here, pictures, inputs.pads, what=modality))
        return merge_rows(inputs.length, inputs.pads, *kinds)

    def rotary_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        if position_ids.dim() == 2:
            return position_ids[None].expand(3, -1, -1)
        # With four rows the first is the text position, used for masks only.
        return position_ids[-3:]

    def rotary(
        self,
        decoder: nn.Module,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        kind: str | None = None,
    ) -> Any:
        return decoder.rotary_emb(hidden, positions)  # type: ignore[operator]


def grid_pictures(grids: Any, merge: int) -> list[Picture]:
    """Pictures of grids `[n, 3]` (frames, rows, columns) of patches, merged `merge` × `merge`."""
    array = grids.detach().cpu().numpy() if isinstance(grids, torch.Tensor) else np.asarray(grids)
    return [
        Picture((Panel.plain(int(t), int(h) // merge, int(w) // merge),))
        for t, h, w in array.reshape(-1, 3)
    ]

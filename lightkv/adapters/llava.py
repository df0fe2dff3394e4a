"""LLaVA-v1.5: one square view of (image side / patch side)² tokens for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.core.adapter import Adapter
from lightkv.core.errors import LayoutError, ModelError
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import SampleLayout, View, VisionLayout


class LlavaAdapter(HFAdapter):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower."""

    name = "llava"
    models = "LLaVA-v1.5"
    model_types = ("llava",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        if inputs.input_ids is None:
            raise ModelError(
                "images were given without input_ids, so their places are unknown",
                field="input_ids",
                remedy="pass input_ids, or give the spans: "
                "compress(model, …, layout=VisionLayout.from_spans(…))",
            )
        side, extra = _grid(config)
        samples = []
        for row, ids in enumerate(inputs.input_ids):
            places = np.flatnonzero(ids == config.image_token_id).astype(np.int64)
            samples.append(SampleLayout(_views(row, places, side, extra), inputs.pads[row]))
        return VisionLayout(inputs.length, tuple(samples))


def _grid(config: Any) -> tuple[int, int]:
    """Patches per side, and leading tokens without a patch (the class token)."""
    vision = config.vision_config
    if not isinstance(getattr(vision, "image_size", None), int) or vision.model_type == "pixtral":
        raise ModelError(
            f"LLaVA with a {vision.model_type!r} tower has images of variable size",
            field="model.config.vision_config",
            remedy="use adapter='generic' with layout=VisionLayout.from_spans(…)",
        )
    extra = 1 if config.vision_feature_select_strategy == "full" else 0
    return vision.image_size // vision.patch_size, extra


def _views(row: int, places: np.ndarray[Any, Any], side: int, extra: int) -> tuple[View, ...]:
    count = side * side + extra
    if places.size % count:
        raise LayoutError(
            f"{places.size} image placeholders, but each image takes {count}",
            field=f"input_ids[{row}]",
            remedy="let the processor expand <image>, one for each picture",
        )
    cells = np.concatenate([np.full(extra, -1), np.arange(side * side)]).astype(np.int64)
    return tuple(
        View((1, side, side), places[i * count : (i + 1) * count], cells, image=i)
        for i in range(places.size // count)
    )


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(LlavaAdapter())

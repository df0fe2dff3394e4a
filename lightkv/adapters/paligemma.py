"""PaliGemma: square images in a prefix that sees itself in both directions.

The mask of the prefill is therefore a tensor, never a causal flag; its rows and columns are gathered as
any other mask's. Images usually stand first, so unlike elsewhere they can attend to the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lightkv.adapters.hf import HFAdapter
from lightkv.adapters.inputs import ModelInputs
from lightkv.adapters.placing import Panel, Picture, merge_rows, place, uniform
from lightkv.core.adapter import Adapter
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import VisionLayout


class PaliGemmaAdapter(HFAdapter):
    """`PaliGemmaForConditionalGeneration`."""

    name = "paligemma"
    models = "PaliGemma"
    model_types = ("paligemma",)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        config: Any = model.config
        here = inputs.placeholders(config.image_token_id)
        side = config.vision_config.image_size // config.vision_config.patch_size
        pictures = uniform(Picture((Panel.plain(1, side, side),)), here)
        return merge_rows(inputs.length, inputs.pads, place(here, pictures, inputs.pads))


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    register(PaliGemmaAdapter())

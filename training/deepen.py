"""Growing the decoder during training: new layers that add nothing at first.

The 8-layer model binds digits to colours and places within a thousand updates; a 12-layer one took
several times as long. So the shallow one is trained first and then grown: four new layers are put
between the old ones with their output projections at zero, which leaves the function unchanged, and
training goes on.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from training.architecture import LAYERS, make_model

M = TypeVar("M", bound=PreTrainedModel)
START_LAYERS = 8
"""Decoder layers at first: a shallow decoder learns to look things up in far fewer updates."""
PLACES = (0, 1, 2, 3, 5, 6, 8, 10)
"""Where the old layers go. The picture is read in layers 3 and 6; layers behind have room to think."""


def placed(layer: int, depth: int) -> int:
    """Index of a layer of the shallow decoder in a decoder of `depth` layers."""
    return layer if depth == START_LAYERS else PLACES[layer]


def deepened(shallow: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """A model of `LAYERS` decoder layers that computes what `shallow` computes."""
    return grow(shallow, make_model(LAYERS))


@torch.no_grad()
def grow(shallow: M, deep: M) -> M:
    """`deep`, an untrained model with more decoder layers, made to compute what `shallow` does."""
    weights = shallow.state_dict()
    prefix = "model.language_model.layers."
    renamed = {}
    for name, value in weights.items():
        if name.startswith(prefix):
            number, rest = name.removeprefix(prefix).split(".", 1)
            name = f"{prefix}{PLACES[int(number)]}.{rest}"
        renamed[name] = value
    deep.load_state_dict(renamed, strict=False)
    for index, layer in enumerate(deep.model.language_model.layers):
        if index not in PLACES:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return deep

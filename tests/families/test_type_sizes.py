"""Weights that a token meets in each layer, counted of a config and of the layers made of it.

All multimodal types of the installed transformers, at the sizes that they have by default, on the meta
device. What differs must be an estimate, and say so.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from lightkv.adapters.hf import contact, feed_forward
from lightkv.adapters.hf.shapes import decoder_shape
from lightkv.core.errors import ModelError

TYPES = sorted(contact.multimodal_types())
ANOTHER = {"voxtral_realtime": "scales by the time of each token, with maps of 0.2 % of a layer"}
"""Types whose layers have maps of another kind → which."""


def layers_of(whole: Any) -> Any:
    """The decoder's layers without values; skips what cannot be made of a config alone."""
    config = whole.get_text_config()
    alone = type(config) in MODEL_MAPPING
    try:
        with torch.device("meta"):
            model: Any = AutoModel.from_config(config if alone else whole)
        return getattr(model, "layers", None) or model.get_decoder().layers
    except Exception as error:  # noqa: BLE001 - defaults of strangers, some of which fit no model
        pytest.skip(f"no decoder is made of its defaults alone ({type(error).__name__})")


def weights(layer: Any, config: Any) -> int:
    """Weights of matrices; of the three-dimensional ones, experts, the share that a token is sent to."""
    maps = experts = 0
    for name, each in layer.named_parameters():
        if "conv1d" not in name and not name.endswith("conv.weight"):
            maps += each.numel() if each.dim() == 2 else 0
            experts += each.numel() if each.dim() == 3 else 0
    if not experts:
        return maps
    count = feed_forward.first(config, feed_forward.EXPERTS)
    return maps + experts * feed_forward.first(config, feed_forward.ACTIVE) // count


@pytest.mark.parametrize("kind", TYPES)
def test_weights_of_each_layer(kind: str) -> None:
    try:
        whole: Any = AutoConfig.for_model(kind)
        config = whole.get_text_config()
        shape = decoder_shape(config)
    except (ModelError, AttributeError, ValueError, TypeError) as error:
        pytest.skip(f"its defaults are no decoder's ({type(error).__name__})")
    if shape.estimate or kind in ANOTHER:
        pytest.skip(shape.estimate or ANOTHER[kind])
    for index, layer in enumerate(layers_of(whole)):
        counted = shape.layer(index)
        assert counted.parameters + counted.expansion == weights(layer, config), index

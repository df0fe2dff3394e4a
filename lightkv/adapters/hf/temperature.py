"""Layers that scale their queries by the number of a token, which they count themselves.

Layers of Llama 4 without rotary positions grow warmer with every few thousand tokens. They count from
the entries of their own cache, which a stage made fewer. So behind their query projection the factor of
the place that they count is replaced by that of the place in the sequence that was fed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.cache_record import original_positions
from lightkv.adapters.hf.contact import place_scale
from lightkv.adapters.hf.forward import ForwardPass

Current = Callable[[], ForwardPass | None]
"""The pass that runs, None outside of one."""


def scale_queries(attentions: Iterable[Any], current: Current) -> list[Any]:
    """Hooks on the query projections of the layers that count places themselves.

    Args:
        attentions: of the layers that have one.
        current: gives the pass that runs.
    """
    return [
        own.q_proj.register_forward_hook(partial(_rescale, own.layer_idx, scale, current))
        for own in attentions
        if (scale := place_scale(own)) is not None
    ]


def _rescale(
    layer: int,
    scale: tuple[float, float],
    current: Current,
    module: nn.Module,
    args: Any,
    query: torch.Tensor,
) -> torch.Tensor | None:
    """`[B, N′, H · d]` queries, multiplied by what the layer's own factor lacks."""
    forward = current()
    if forward is None or not forward.touched(layer):
        return None
    record, new = forward.record, query.shape[1]
    if record is None:
        fed, own = forward.queries, torch.arange(new, device=query.device)[None]
        places = forward.kept.to(query.device)
    else:
        fed, held = record.fed(layer), record.length(layer)
        own = torch.arange(held - new, held, device=query.device)[None]
        places = original_positions(record.segments[layer], query.device)[:, -new:]
    if fed < scale[0]:
        return None  # all factors are 1
    factor = _factor(scale, places) / _factor(scale, own)
    return (query * factor[..., None]).to(query.dtype)


def _factor(scale: tuple[float, float], places: torch.Tensor) -> torch.Tensor:
    step, weight = scale
    return torch.log1p(torch.floor((places.float() + 1.0) / step)) * weight + 1.0

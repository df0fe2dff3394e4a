"""Queries and keys of a few decoder layers, kept while it runs; in training only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "lightkv_demo_pointer"
_captured: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
_watched: list[int] = []
_inner: list[Callable[..., Any]] = [sdpa_attention_forward]


def plain_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention ``[B, L, H, d]`` as two products and a softmax; `attention_mask` is a bool one. For
    some hundred positions in bfloat16 on a CPU that is several times as fast as SDPA, backward most."""
    share = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(share, dim=1) for states in (key, value))
    bias = torch.zeros_like(attention_mask, dtype=query.dtype)
    bias = bias.masked_fill(~attention_mask, -torch.inf)
    weights = ((query * scaling) @ key.transpose(-1, -2) + bias).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention that keeps query ``[B, H, L, d]`` and key ``[B, G, L, d]`` of the layers of interest."""
    layer = cast(int, module.layer_idx)
    if layer in _watched:
        _captured[_watched.index(layer)] = (query, key)
    return _inner[0](module, query, key, value, attention_mask, **kwargs)


@contextmanager
def watching(
    decoder: PreTrainedModel,
    layers: Sequence[int],
    attention: Callable[..., Any] = sdpa_attention_forward,
) -> Iterator[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Let the attention of `layers` leave query and key behind, by their place in `layers`, and let
    all layers attend by `attention`; restores the config on exit."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)  # else masks are silently dropped
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = _NAME
    _watched[:], _inner[:] = layers, [attention]
    try:
        yield _captured
    finally:
        decoder.config._attn_implementation = before
        _captured.clear()

"""The sizes of a decoder and of each of its layers, read of the names that configs of transformers use.

What a config does not tell (a gate in the attention of a class, say) stands here by `model_type`. Tests
build each of these decoders and compare. What is not known is counted as if it were a Llama, and
`DecoderShape.estimate` says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lightkv.adapters.hf import feed_forward
from lightkv.adapters.hf.feed_forward import model_type, shares_cache
from lightkv.adapters.hf.masks import FULL, SLIDING, sliding_windows
from lightkv.core.cost.flops import DecoderShape, LayerShape
from lightkv.core.cost.layers import NOTHING, Entry, State
from lightkv.core.cost.recurrence import GatedDelta, Recurrence, SelectiveScan, ShortConvolution
from lightkv.core.errors import ModelError

CHUNKED, LINEAR, CONVOLUTION = "chunked_attention", "linear_attention", "conv"
ATTENTION = frozenset({FULL, SLIDING, CHUNKED})
ALONE = frozenset({feed_forward.MOE, feed_forward.DENSE})
"""Kinds of layers without attention. A decoder that has some has no feed-forward parts in the others."""

GATED_HEADS = frozenset(
    {"qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "muse_glimmer_text", "muse_spark_text"}
)
"""Decoders whose attention has a gate as wide as its queries."""

UNCOUNTED = {
    "index_topk": "what finds the keys of indexed attention is not counted",
    "index_topk_blocks": "what finds the blocks of sparse attention is not counted",
    "indexer_head_dim": "what finds the keys of indexed attention is not counted",
    "altup_num_inputs": "several hidden states for each token are counted as one",
    "hc_sinkhorn_iters": "connections between several hidden states are not counted",
    "loop_layer_index_start": "layers that run more than once are counted once",
}
"""Names in configs of what makes a decoder differ from all that is counted → what is left out."""


def decoder_shape(config: Any) -> DecoderShape:
    """Sizes of a decoder from its text config.

    Raises:
        ModelError: the config lacks a size.
    """
    try:
        return _decoder_shape(config)
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"the text config lacks a size: {error}",
            field="model.config",
            remedy="write an adapter that overrides `shape` (docs/writing-an-adapter.md)",
        ) from error


def _decoder_shape(config: Any) -> DecoderShape:
    number = config.num_hidden_layers
    windows, kinds = sliding_windows(config, number), layer_kinds(config)
    layers = [
        _layer(config, index, kind, window)
        for index, (kind, window) in enumerate(zip(kinds, windows or (None,) * number, strict=True))
    ]
    at = next((index for index, layer in enumerate(layers) if layer.num_heads), 0)
    own = _of_layer(config, at)
    alike = DecoderShape(
        num_layers=number,
        hidden_size=config.hidden_size,
        num_heads=own.num_attention_heads,
        num_kv_heads=_kv_heads(own),
        head_dim=layers[at].head_dim or _head_dim(own),
        intermediate_size=feed_forward.usual_width(config),
        vocab_size=config.vocab_size,
        gated_mlp=feed_forward.is_gated(config),
        windows=windows,
    )
    same = all(layer == alike.layer(index) for index, layer in enumerate(layers))
    return replace(
        alike,
        layers=() if same else tuple(layers),
        entry_parameters=_layer_inputs(config) * config.hidden_size * number,
        estimate=_unknown(config, kinds),
    )


def layer_kinds(config: Any) -> tuple[str, ...]:
    """The kind of each decoder layer, `full_attention` where the config names none."""
    kinds = getattr(config, "layer_types", None)
    return tuple(kinds) if kinds else (FULL,) * config.num_hidden_layers


def _unknown(config: Any, kinds: tuple[str, ...]) -> str:
    """What is not counted as it is, as a sentence; nothing if all is."""
    found = [what for name, what in UNCOUNTED.items() if getattr(config, name, None) is not None]
    found += [
        f"layers of {kind} are counted as full attention"
        for kind in sorted(set(kinds))
        if kind not in ATTENTION | ALONE and _recurrent(config, kind) is None
    ]
    if shares_cache(config, config.num_hidden_layers - 1):
        found.append(
            "layers that read the cache of others are counted for the whole prompt, and some releases "
            "run them for its last token only"
        )
    experts = feed_forward.unknown(config)
    return "; ".join(dict.fromkeys([*found, *([experts] if experts else [])]))


def _of_layer(config: Any, index: int) -> Any:
    """The config as one layer has it: what layers differ in cannot be read of the whole."""
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def _layer(config: Any, index: int, kind: str, window: int | None) -> LayerShape:
    own = _of_layer(config, index)
    rest = 2 * config.hidden_size * _layer_inputs(config)
    if kind in ALONE or not ALONE & set(layer_kinds(config)):
        rest += feed_forward.parameters(config, index)
    if kind in ALONE:
        layer = _stateful(0)
    elif kind not in ATTENTION and (found := _recurrent(config, kind)) is not None:
        layer = found
    elif getattr(own, "kv_lora_rank", None):
        layer = _latent(own, window)
    else:
        if kind == CHUNKED:
            window = getattr(config, "attention_chunk_size", None)
        layer = _attention(config, index, kind, window)
    return replace(layer, parameters=layer.parameters + rest)


def _layer_inputs(config: Any) -> int:
    """Numbers of an embedding that each layer is given for each token (Gemma 4)."""
    return getattr(config, "hidden_size_per_layer_input", None) or 0


# -- attention -------------------------------------------------------------------------------------


def _kv_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or int(config.num_attention_heads)


def _head_dim(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def _attention(config: Any, index: int, kind: str, window: int | None) -> LayerShape:
    own, shares = _of_layer(config, index), shares_cache(config, index)
    heads, kv_heads, width = own.num_attention_heads, _kv_heads(own), _head_dim(own)
    entry = NOTHING if shares else Entry(kv_heads, width)
    # One projection gives keys and values where these are the same before their norms.
    made = 1 if getattr(config, "attention_k_eq_v", False) and kind == FULL else 2
    numbers = 2 * heads * width + made * entry.numbers() + _gate(config, heads, width)
    return LayerShape(
        num_heads=heads,
        head_dim=width,
        value_dim=width,
        parameters=config.hidden_size * numbers,
        key=entry,
        value=entry,
        window=window,
    )


def _gate(config: Any, heads: int, width: int) -> int:
    """Numbers by which the heads of a token are weighed, made of its hidden state."""
    if model_type(config) in GATED_HEADS:
        return heads * width
    gating = getattr(config, "gating", None)  # Step 3.7
    if gating or getattr(config, "use_attention_gate", False):  # LFM3
        return heads * width if gating not in (None, True, "per-head") else heads
    return 0


def _latent(config: Any, window: int | None) -> LayerShape:
    """Attention that caches a latent for all heads, and the rotary part of their keys (DeepSeek-V2)."""
    heads, latent, rotary = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
    key, value = config.qk_nope_head_dim + rotary, config.v_head_dim
    queries, rank = heads * key, getattr(config, "q_lora_rank", None)
    made = rank * (config.hidden_size + queries) if rank else config.hidden_size * queries
    return LayerShape(
        num_heads=heads,
        head_dim=key,
        value_dim=value,
        parameters=made + config.hidden_size * (latent + rotary + heads * value),
        key=Entry(1, latent),
        value=Entry(1, rotary),
        expansion=latent * heads * (config.qk_nope_head_dim + value),
        window=window,
    )


# -- recurrent layers ------------------------------------------------------------------------------


def _recurrent(config: Any, kind: str) -> LayerShape | None:
    """A layer that keeps a state, without its feed-forward part; None where its kind is not known."""
    if kind == CONVOLUTION and hasattr(config, "conv_L_cache"):
        return _short_convolution(config)
    if kind == LINEAR and hasattr(config, "linear_num_value_heads"):
        return _gated_delta(config)
    if kind == LINEAR and hasattr(config, "mamba_num_heads"):
        return _selective_scan(config)
    return None


def _stateful(
    parameters: int, states: tuple[State, ...] = (), recurrence: Recurrence | None = None
) -> LayerShape:
    """A layer without attention."""
    return LayerShape(0, 0, 0, parameters, states=states, recurrence=recurrence)


def _short_convolution(config: Any) -> LayerShape:
    hidden, kernel = config.hidden_size, config.conv_L_cache
    states = (State(hidden * kernel),)
    return _stateful(4 * hidden * hidden, states, ShortConvolution(hidden, kernel))


def _gated_delta(config: Any) -> LayerShape:
    heads, kernel = config.linear_num_value_heads, config.linear_conv_kernel_dim
    key, value = config.linear_key_head_dim, config.linear_value_head_dim
    channels = 2 * config.linear_num_key_heads * key + heads * value
    # Queries, keys and values, and two gates of a head; a gate as wide as the output, and the output.
    numbers = channels + 2 * heads + 2 * heads * value
    states = State(channels * kernel), State(heads * key * value, bytes_per_value=4)
    scan = GatedDelta(channels, kernel, heads, key, value)
    return _stateful(config.hidden_size * numbers, states, scan)


def _selective_scan(config: Any) -> LayerShape:
    heads, width, state = config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size
    channels, kernel = heads * width + 2 * config.n_groups * state, config.conv_kernel
    # The input twice (once as a gate), what the convolution runs over beside it, a step; the output.
    numbers = 2 * heads * width + channels + heads
    size = getattr(torch, config.mamba_ssm_cache_dtype).itemsize
    states = State(channels * kernel), State(heads * width * state, size)
    scan = SelectiveScan(channels, kernel, heads, width, state, config.chunk_size)
    return _stateful(config.hidden_size * numbers, states, scan)

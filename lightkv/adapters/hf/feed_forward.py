"""Weights that one token meets in the feed-forward part of a layer, read of a decoder's config.

With experts those that the token is sent to, those that are shared, and the router. (Llama 4, as
transformers runs it, computes every expert for every token and multiplies by zero; what is counted is
what the model asks for.)
"""

from __future__ import annotations

from typing import Any

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs call the number of experts in a layer."""
ACTIVE = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_k")
"""Experts that a token is sent to."""
SHARED = ("n_shared_experts", "moe_num_shared_experts")
"""Experts of the same width that every token goes through."""
SHARED_WIDTHS = (
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "share_expert_dim",
)
"""Width of one such expert, where it is given instead."""
DENSE_WIDTHS = ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size")
"""Width of layers without experts; a list where each has its own."""
INNER_WIDTHS = ("moe_hidden_size", "moe_latent_size")
"""Numbers in a state as experts see it, where that is not the hidden state."""

MOE, DENSE = "moe", "mlp"
"""Kinds of layers that are a feed-forward part and nothing else (Nemotron-H)."""

UNGATED = frozenset({"apertus", "apertus1p5_text", "cosmos3_edge_text", "nemotron_h", "persimmon"})
"""Decoders (`model_type`) whose feed-forward parts have two maps instead of three."""
ONE_SHARED = frozenset({"llama4_text"})
"""Decoders with one shared expert that their config does not speak of."""
GATED_SHARED = frozenset({"qwen3_5_moe_text", "qwen2_moe", "qwen3_next", "qwen4_exp_text"})
"""Decoders that weigh their shared expert by a number of its own for each token."""
BESIDE_DENSE = frozenset({"gemma4_text"})
"""Decoders whose experts stand beside a dense part instead of in its place."""


def first(config: Any, names: tuple[str, ...]) -> Any:
    """The value of the first of some names that a config gives one, None if none."""
    return next((v for name in names if (v := getattr(config, name, None)) is not None), None)


def model_type(config: Any) -> str | None:
    """What transformers calls the decoder, if it does."""
    return getattr(config, "model_type", None)


def is_gated(config: Any) -> bool:
    """Whether the feed-forward parts of a decoder have three maps: gate, up and down."""
    return model_type(config) not in UNGATED


def parameters(config: Any, layer: int) -> int:
    """Weights that one token meets in the feed-forward part of a layer."""
    count, total = first(config, EXPERTS), 0
    sparse = bool(count) and is_sparse(config, layer)
    if sparse:
        total += _experts(config, count)
    if not sparse or model_type(config) in BESIDE_DENSE:
        total += _maps(config.hidden_size, _dense_width(config, layer), config)
    return total


def _experts(config: Any, count: int) -> int:
    """Weights of the router, of the experts that a token is sent to, and of those that are shared."""
    hidden, inner = config.hidden_size, first(config, INNER_WIDTHS)
    # Some experts work on narrower states, which two projections around them make.
    total = count * hidden + _shared(config) + (0 if inner is None else 2 * hidden * inner)
    active = first(config, ACTIVE) or count
    return int(total + active * _maps(inner or hidden, _expert_width(config), config))


def is_sparse(config: Any, layer: int) -> bool:
    """Whether a layer of a decoder with experts has some."""
    for name, sparse in (("mlp_layer_types", "sparse"), ("layers_block_type", MOE)):
        kinds = getattr(config, name, None)
        if kinds is not None:
            return bool(kinds[layer] == sparse)
    if (start := getattr(config, "moe_layer_start_index", None)) is not None:  # ERNIE 4.5
        within = start <= layer <= config.moe_layer_end_index
        return bool(within and (layer + 1) % config.moe_layer_interval == 0)
    if (layers := getattr(config, "moe_layers", None)) is not None:
        return layer in layers
    if (dense := first(config, ("first_k_dense_replace", "num_dense_layers"))) is not None:
        return bool(layer >= dense)
    step = getattr(config, "decoder_sparse_step", None) or 1
    return layer not in (getattr(config, "mlp_only_layers", None) or ()) and (layer + 1) % step == 0


def unknown(config: Any) -> str | None:
    """What of the experts of a decoder is not known, as a sentence; None if all is."""
    if not first(config, EXPERTS):
        return None
    if not first(config, ACTIVE):
        return "a token is counted as if it went to all experts: how many it goes to is not known"
    if isinstance(getattr(config, "moe_intermediate_size", None), list | tuple):
        return "vision tokens are counted with the experts of text"
    return None


def _maps(size: int, width: int, config: Any) -> int:
    """Weights of the two or three maps between the size of a state and a width."""
    return (3 if is_gated(config) else 2) * size * width


def _expert_width(config: Any) -> int:
    width = first(config, ("moe_intermediate_size", "intermediate_size"))
    # Of two widths the first is that of the experts of text.
    return int(width[0] if isinstance(width, list | tuple) else width)


def _shared(config: Any) -> int:
    """Weights of the experts that every token goes through."""
    gate = config.hidden_size if model_type(config) in GATED_SHARED else 0
    width = first(config, SHARED_WIDTHS)
    if width is not None:
        return int(_maps(config.hidden_size, width, config) + gate)
    count = first(config, SHARED) or int(model_type(config) in ONE_SHARED)
    return count * _maps(config.hidden_size, _expert_width(config), config)


def _dense_width(config: Any, layer: int) -> int:
    """Width of a dense part; some configs give a number from which it is computed."""
    given = first(config, DENSE_WIDTHS)
    width = int(given[layer] if isinstance(given, list | tuple) else given)
    if getattr(config, "block_auto_adjust_ff_dim", False):  # LFM2
        width = int(2 * width / 3)
        if config.block_ffn_dim_multiplier is not None:
            step = config.block_multiple_of
            width = step * -(-int(config.block_ffn_dim_multiplier * width) // step)
    if getattr(config, "use_double_wide_mlp", False):  # Gemma 4
        width *= 2 if shares_cache(config, layer) else 1
    return width


def usual_width(config: Any) -> int:
    """One width for listings: of the first layer's dense part, or of an expert."""
    given = first(config, DENSE_WIDTHS)
    if given is None:
        return _expert_width(config)
    return int(given[0] if isinstance(given, list | tuple) else given)


def shares_cache(config: Any, layer: int) -> bool:
    """Whether a layer reads keys and values of an earlier one and makes none."""
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return bool(layer >= config.num_hidden_layers - shared)

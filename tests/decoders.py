"""Tiny configs of text decoders, one for each kind of layer; no two sizes of one are alike by chance."""

from transformers import (
    DeepseekV3Config,
    Gemma4TextConfig,
    Glm4MoeConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    NemotronHConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

SIZES = {
    "vocab_size": 200,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 56}
DELTA = {
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 20,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
LATENT = {
    "q_lora_rank": 36,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "num_key_value_heads": 4,
}
OWN_HEADS = {"global_head_dim": 48, "sliding_window": 24, "vocab_size_per_layer_input": 200}
MAMBA = {"mamba_num_heads": 6, "mamba_head_dim": 20, "ssm_state_size": 28, "n_groups": 2}


def without(name):
    return {key: value for key, value in SIZES.items() if key != name}


def routed(**more):
    """Experts, as configs of the DeepSeek line call them."""
    sizes = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 56}
    return {**sizes, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, **more}


CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "experts": lambda: Qwen3MoeConfig(
        **SIZES, **EXPERTS, decoder_sparse_step=2, mlp_only_layers=[3]
    ),
    "shared experts": lambda: Glm4MoeConfig(**SIZES, **routed()),
    "latents": lambda: DeepseekV3Config(**{**without("head_dim"), **LATENT, **routed()}),
    "delta rule": lambda: Qwen3_5TextConfig(**SIZES, **DELTA),
    "delta rule, experts": lambda: Qwen3_5MoeTextConfig(
        **without("intermediate_size"), **DELTA, **EXPERTS, shared_expert_intermediate_size=40
    ),
    "convolutions": lambda: Lfm2Config(**without("head_dim"), full_attn_idxs=[2, 5]),
    "own heads": lambda: Gemma4TextConfig(**SIZES, **OWN_HEADS, hidden_size_per_layer_input=0),
    "own heads, experts": lambda: Gemma4TextConfig(
        **SIZES,
        **OWN_HEADS,
        hidden_size_per_layer_input=0,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        enable_moe_block=True,
        num_experts=6,
        top_k_experts=2,
        moe_intermediate_size=56,
    ),
    "shared caches": lambda: Gemma4TextConfig(
        **SIZES,
        **OWN_HEADS,
        hidden_size_per_layer_input=12,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        layer_types=["sliding_attention", "full_attention"] * 4,
    ),
    "chunks": lambda: Llama4TextConfig(
        **SIZES,
        num_local_experts=4,
        intermediate_size_mlp=120,
        interleave_moe_layer_step=2,
        attention_chunk_size=32,
    ),
    "state space": lambda: NemotronHConfig(
        **without("num_hidden_layers"),
        **MAMBA,
        **routed(n_group=1),
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp"] * 2,
        moe_shared_expert_intermediate_size=40,
        chunk_size=64,
    ),
}
"""Kind of decoder → its config."""

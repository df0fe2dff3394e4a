"""Tiny models with random weights."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

TEXT = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_llava(attn_implementation="sdpa", dtype=torch.float32, **changes):
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        patch_size=8,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**TEXT),
        image_token_id=5,
        image_seq_length=36,
        attn_implementation=attn_implementation,
        **changes,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).to(dtype).eval()


def tiny_llama(attn_implementation="sdpa", dtype=torch.float32):
    config = LlamaConfig(**TEXT, attn_implementation=attn_implementation)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype).eval()

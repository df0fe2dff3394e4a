"""Tiny models with random weights."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
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


TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


GRID_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
}
"""A tower that takes pictures of any size and merges 2 × 2 patches, as Qwen's do."""


def seeded(kind, config, dtype=torch.float32):
    """A model of a class in evaluation mode, the same weights at every call."""
    torch.manual_seed(0)
    return kind(config).to(dtype).eval()


def clip(image_size=48):
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=8,
        projection_dim=32,
    )


def tiny_llava(attn_implementation="sdpa", dtype=torch.float32, **changes):
    config = LlavaConfig(
        vision_config=clip(),
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


def tiny_llava_next(attn_implementation="sdpa", dtype=torch.float32):
    config = LlavaNextConfig(
        vision_config=clip(),
        text_config=LlamaConfig(**TEXT),
        image_token_id=5,
        image_seq_length=36,
        image_grid_pinpoints=[[48, 96], [96, 48], [96, 96]],
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return LlavaNextForConditionalGeneration(config).to(dtype).eval()


QWEN_TEXT = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}
QWEN_IDS = {
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
}


def tiny_qwen2_5_vl(attn_implementation="sdpa", dtype=torch.float32):
    vision = {**GRID_TOWER, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=QWEN_TEXT,
        attn_implementation=attn_implementation,
        **QWEN_IDS,
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).to(dtype).eval()


def tiny_qwen2_vl(attn_implementation="sdpa", dtype=torch.float32):
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(
        vision_config=vision,
        text_config=QWEN_TEXT,
        attn_implementation=attn_implementation,
        **QWEN_IDS,
    )
    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(config).to(dtype).eval()

"""A random LLaVA of a few thousand weights, for tests that need a real model class."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 5
SIDE = 8
"""Patches on each side of the image: 64 vision tokens."""
LAYERS = 8


def make_model() -> LlavaForConditionalGeneration:
    """A seeded model with 8 decoder layers and images of 8 × 8 patches."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8 * SIDE,
        patch_size=8,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=SIDE * SIDE,
    )
    return LlavaForConditionalGeneration(config).eval()


def make_inputs() -> dict[str, torch.Tensor]:
    """One image between two and six text tokens."""
    torch.manual_seed(1)
    ids = [1, 10] + [IMAGE_TOKEN] * SIDE * SIDE + [20, 21, 22, 23, 24, 25]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": torch.randn(1, 3, 8 * SIDE, 8 * SIDE),
    }

"""LLaVA models with random weights, true depth and head layout, and a width that the machine can take.

The vision tower is as small as it can be, because no method changes what it costs. Weights are random,
so these models are for timing only.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

T = TypeVar("T")
IMAGE_TOKEN = 5
PATCH = 14
VOCABULARY = 4096


def _sizes(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": round(width * 11008 / 4096),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "max_position_embeddings": 1 << 17,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _hybrid(width: int, layers: int, heads: int) -> PreTrainedConfig:
    """Three layers of the gated delta rule to one of attention, as in Qwen3.5."""
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1]}
    return Qwen3_5TextConfig(
        **_sizes(width, layers, heads),
        rope_parameters=rotary,
        linear_num_key_heads=heads // 2,
        linear_num_value_heads=heads,
        linear_key_head_dim=width // heads,
        linear_value_head_dim=width // heads,
    )


def _experts(width: int, layers: int, heads: int) -> PreTrainedConfig:
    """Two of 16 experts for each token, as wide together as the dense MLP."""
    return Qwen3MoeConfig(
        **_sizes(width, layers, heads),
        num_experts=16,
        num_experts_per_tok=2,
        moe_intermediate_size=round(width * 11008 / 4096 / 2),
    )


DECODERS: dict[str, Callable[[int, int, int], PreTrainedConfig]] = {
    "llama": lambda width, layers, heads: LlamaConfig(**_sizes(width, layers, heads)),
    "hybrid": _hybrid,
    "experts": _experts,
}
"""Kind of decoder → its config, of a width, a depth and a number of heads."""


def wide_llava(
    side: int,
    *,
    width: int = 1024,
    layers: int = 32,
    heads: int = 32,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attention: str = "sdpa",
    decoder: str = "llama",
) -> LlavaForConditionalGeneration:
    """A LLaVA of the 7B layout whose pictures take `side`² tokens, on a decoder of a kind of `DECODERS`.

    The ratio of MLP to width is that of Vicuna (11008 / 4096).
    """
    text = DECODERS[decoder](width, layers, heads)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side * PATCH,
        patch_size=PATCH,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=side * side,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            return LlavaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)


def prompt_inputs(
    model: LlavaForConditionalGeneration, side: int, *, text_tokens: int = 75, batch: int = 1
) -> dict[str, torch.Tensor]:
    """A prompt of 35 text tokens, the picture, and the other text tokens; without padding."""
    generator = torch.Generator().manual_seed(1)
    before = min(35, text_tokens - 1)
    words = torch.randint(10, VOCABULARY, (batch, text_tokens), generator=generator)
    picture = torch.full((batch, side * side), IMAGE_TOKEN)
    ids = torch.cat([words[:, :before], picture, words[:, before:]], dim=1)
    pixels = torch.randn(batch, 3, side * PATCH, side * PATCH, generator=generator)
    dtype = next(model.parameters()).dtype
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, dtype),
    }


def interleaved(
    names: Iterable[str],
    measure: Callable[[str], T],
    rounds: int,
    until: float = math.inf,
) -> dict[str, list[T]]:
    """What is measured of each name, round by round: a change of the machine's mood hits all alike.

    After the first round no other begins once `time.monotonic()` has passed `until`.
    """
    names = list(names)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        if number and time.monotonic() > until:
            break
        for name in names:
            found[name].append(measure(name))
    return found


def ratio_with_spread(times: list[float], base: list[float]) -> dict[str, float]:
    """Median of the ratios of one round each, with their extremes."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}

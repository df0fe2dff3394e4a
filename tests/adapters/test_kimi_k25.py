"""The contract of the Kimi K2.5 adapter: a decoder that caches one latent for all heads (MLA)."""

import pytest
import torch
from grids import WRAPPED, Grids, siglip, text
from releases import before, needs_class

from lightkv.adapters.families.kimi_k25 import KimiK25Adapter
from lightkv.testing import AdapterSuite, Prompt

Kimi_K25Config = needs_class("Kimi_K25Config")
Kimi_K25ForConditionalGeneration = needs_class("Kimi_K25ForConditionalGeneration")

LATENT, ROTARY = 32, 16
"""Numbers that a layer caches of a token, and of its rotary part."""
DECODER = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": LATENT,
    "q_lora_rank": 24,
    "qk_rope_head_dim": ROTARY,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}


class TestKimiK25(Grids, AdapterSuite):
    adapter, model = KimiK25Adapter, Kimi_K25ForConditionalGeneration
    patch, raster, typed = (3, 4, 4), True, False
    cannot = {"next layer": "keys of the next layer are made of what it caches"}

    def config(self, **given):
        tower = siglip(pos_emb_height=16, pos_emb_width=16, pos_emb_time=4)
        return Kimi_K25Config(
            text_config=text(**DECODER),
            vision_config=tower,
            projection_hidden_size=32,
            **WRAPPED,
            **given,
        )


def test_the_bytes_are_those_of_latents():
    suite, prompts = TestKimiK25(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    with suite.session(model, prompts) as run:
        suite.generate(model, suite.make_inputs(model, prompts), max_new_tokens=1)
    sample = run.last.samples[0]
    held = [sample.text_tokens + tokens for tokens in sample.vision_tokens]
    assert run.last.cache_bytes == tuple(tokens * (LATENT + ROTARY) * 4 for tokens in held)


def test_frames_are_merged_into_one():
    suite = TestKimiK25()
    model, prompt = suite.make_model(), Prompt(2, 1, 3, seed=1)
    inputs = suite.make_inputs(model, [prompt])
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    inputs["image_grid_thw"] = torch.tensor([[2, rows, columns]])
    inputs["pixel_values"] = inputs["pixel_values"].repeat(2, 1, 1, 1)
    if before("5.24"):  # which counts both frames, with or without lightkv
        with pytest.raises(RuntimeError, match="split_with_sizes"):
            suite.call(model, inputs)
        return
    with suite.session(model, [prompt]) as run:
        suite.generate(model, inputs)
    assert run.last.samples[0].original == rows * columns // 4

"""The contract of DeepSeek-VL, its hybrid and Janus: one square for each image."""

import pytest
import torch
from rows import check_square, picture_rows
from tiny import TEXT, TOWER, seeded
from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    SamVisionConfig,
    SiglipVisionConfig,
)

from lightkv.adapters.families.deepseek_vl import DeepseekVLAdapter
from lightkv.testing import AdapterSuite, Prompt

IMAGE, SIDE = 5, 6


def siglip():
    return SiglipVisionConfig(**TOWER, image_size=48, patch_size=8, vision_use_head=False)


class TestDeepseekVL(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        config = DeepseekVLConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=siglip(),
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(DeepseekVLForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return picture_rows(model, prompts, [IMAGE] * SIDE * SIDE, 48)


class TestDeepseekVLHybrid(TestDeepseekVL):
    def make_model(self, attn_implementation="sdpa", **options):
        sam = SamVisionConfig(
            **TOWER,
            output_channels=16,
            image_size=96,
            patch_size=4,
            window_size=4,
            global_attn_indexes=[1],
            mlp_dim=48,
        )
        config = DeepseekVLHybridConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=siglip(),
            high_res_vision_config=sam,
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(DeepseekVLHybridForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        inputs = super().make_inputs(model, prompts)
        if "pixel_values" in inputs:
            large = inputs["pixel_values"].repeat_interleave(2, -1).repeat_interleave(2, -2)
            inputs["high_res_pixel_values"] = large
        return inputs


class TestJanus(TestDeepseekVL):
    def make_model(self, attn_implementation="sdpa", **options):
        vision = {
            **TOWER,
            "image_size": 48,
            "patch_size": 8,
            "projection_dim": 64,
            "mlp_ratio": 2.0,
            "depth": 2,
        }
        codes = {
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 8,
            "num_patches": 4,
        }
        config = JanusConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=vision,
            vq_config=codes,
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(JanusForConditionalGeneration, config, **options)


@pytest.mark.parametrize("suite", [TestDeepseekVL, TestJanus])
def test_layout_truth(suite):
    model = suite().make_model()
    check_square(DeepseekVLAdapter(), model, suite().make_inputs(model, [Prompt()]), SIDE)


def test_layout_truth_of_the_large_copy():
    """Its weight is zero at first."""
    model = TestDeepseekVLHybrid().make_model()
    torch.nn.init.ones_(model.model.high_res_vision_alpha)
    inputs = TestDeepseekVLHybrid().make_inputs(model, [Prompt()])
    check_square(DeepseekVLAdapter(), model, inputs, SIDE)
    check_square(DeepseekVLAdapter(), model, inputs, SIDE, "high_res_pixel_values")
